"""Which engine is taken, why, and what is said where none can be."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import BACKENDS, create_backend, cuda_probe
from copgen_edge.runtime.backends import onnxruntime as engine
from copgen_edge.runtime.backends.cuda_probe import Gpu, gpus
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.errors import BackendError, RequestError

A_GPU = Gpu("NVIDIA Test", (9, 0), 1 << 30, 132)


@pytest.fixture
def opened(copy_part: Callable[..., Path]) -> Bundle:
    return Bundle.open(copy_part("decoder_S2L2A_B01_B09"))


@pytest.fixture
def ask_again() -> Iterator[None]:
    """What was found out about CUDA is kept for the process; not for a test that changes the machine."""
    engine.cuda_obstacle.cache_clear()
    yield
    engine.cuda_obstacle.cache_clear()


def fake_onnxruntime(providers: list[str], runs_on: str = "", fails: str = "") -> ModuleType:
    """An ONNX Runtime of which no machine of ours has the like."""

    class Session:
        def __init__(self, model: object, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
            if fails:
                raise RuntimeError(fails)
            ((asked, settings),) = providers
            # With TF32 a float32 product on CUDA would miss the tolerance of fp32.
            assert settings == ({"use_tf32": "0"} if asked == "CUDAExecutionProvider" else {})
            self._providers = [runs_on or asked]

        def get_providers(self) -> list[str]:
            return self._providers

    module = ModuleType("onnxruntime")
    module.__dict__.update(
        __version__="0.0",
        InferenceSession=Session,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda name, value: None),
        get_available_providers=lambda: providers,
    )
    return module


@pytest.mark.parametrize("name", ["tensorflow", "", "cpu", "onnxruntime"])
def test_an_unknown_backend_is_refused_with_those_there_are(opened: Bundle, name: str) -> None:
    with pytest.raises(BackendError, match="there are auto, tensorrt, onnxruntime-cuda, onnxruntime-cpu") as caught:
        create_backend(opened, name)
    assert repr(name) in str(caught.value)
    assert issubclass(BackendError, RequestError)


def test_the_pipeline_takes_the_backend_by_name(opened: Bundle) -> None:
    assert Pipeline.load(opened.root, backend="onnxruntime-cpu").backend.name == "onnxruntime-cpu"
    with pytest.raises(BackendError, match="unknown backend"):
        Pipeline.load(opened.root, backend="nothing")


def test_the_cpu_is_taken_when_asked_for(opened: Bundle) -> None:
    backend = create_backend(opened, "onnxruntime-cpu")
    assert (backend.name, backend.reason, backend.precision) == ("onnxruntime-cpu", "asked for", "fp32")


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_says_why_it_took_the_cpu(opened: Bundle) -> None:
    with pytest.raises(BackendError, match=r"cannot run here: .*use --backend onnxruntime-cpu or auto") as caught:
        create_backend(opened, "onnxruntime-cuda")
    obstacle = engine.cuda_obstacle()
    assert obstacle
    assert obstacle in str(caught.value)
    backend = create_backend(opened, "auto")
    assert backend.name == "onnxruntime-cpu"
    assert backend.reason == f"auto: no CUDA here, {obstacle}"
    assert backend.describe()["device"] == "CPU"


@pytest.mark.parametrize(
    ("module", "found", "obstacle"),
    [
        (fake_onnxruntime(["CPUExecutionProvider"]), (A_GPU,), "no CUDA provider"),
        (fake_onnxruntime(["CUDAExecutionProvider"]), (), "the NVIDIA driver shows no GPU"),
        (fake_onnxruntime(["CUDAExecutionProvider"], fails="no libcudnn\n.so.9"), (A_GPU,), "no libcudnn .so.9"),
        (fake_onnxruntime(["CUDAExecutionProvider"], "CPUExecutionProvider"), (A_GPU,), "CPUExecutionProvider runs"),
    ],
)
@pytest.mark.usefixtures("ask_again")
def test_what_keeps_cuda_from_running_is_said(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, module: ModuleType, found: tuple[Gpu, ...], obstacle: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(engine, "gpus", lambda: found)
    with pytest.raises(BackendError, match=obstacle) as caught:
        create_backend(opened, "onnxruntime-cuda")
    assert "\n" not in str(caught.value)
    backend = create_backend(opened, "auto")
    assert backend.name == "onnxruntime-cpu"
    assert obstacle in backend.reason


@pytest.mark.usefixtures("ask_again")
def test_cuda_is_taken_where_a_session_really_runs_on_it(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(["CUDAExecutionProvider"]))
    monkeypatch.setattr(engine, "gpus", lambda: (A_GPU,))
    backend = create_backend(opened, "auto")
    assert backend.name == "onnxruntime-cuda"
    assert "CUDA" in backend.reason
    assert backend.describe()["device"] == "NVIDIA Test"
    assert backend.describe()["provider"] == "CUDAExecutionProvider"
    assert create_backend(opened, "onnxruntime-cuda").reason == "asked for"


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "tensorrt"])
@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
@pytest.mark.usefixtures("ask_again")
def test_an_engine_that_is_not_installed_is_named_with_its_extras(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, left: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None if left == "nothing" else ModuleType("onnxruntime"))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"not installed; run pip install 'copgen-edge\[cpu\]'") as caught:
        create_backend(opened, backend)
    assert "copgen-edge[gpu]" in str(caught.value)


@pytest.mark.usefixtures("ask_again")
def test_an_engine_that_does_not_load_is_not_called_missing(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "packages" / "onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(broken.parent))
    with pytest.raises(BackendError, match=r"does not load \(libcudart.so.12: cannot open") as caught:
        create_backend(opened, "auto")
    assert "not installed" not in str(caught.value)


class FakeDriver:
    """The CUDA driver as documented: results through pointers, status as the return value."""

    def __init__(self, devices: list[tuple[str, int, int, int]], init: int = 0, broken: int | None = None) -> None:
        self._devices, self._init, self._broken = devices, init, broken

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._devices)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 101 if ordinal == self._broken else 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = self._devices[device.value][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = self._devices[device.value][3]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR is 75, _MINOR is 76, _MULTIPROCESSOR_COUNT 16.
        value._obj.value = 16 if attribute == 16 else self._devices[device.value][attribute - 74]
        return 0


def test_the_driver_names_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [("NVIDIA Orin", 8, 7, 64 << 30), ("NVIDIA H200", 9, 0, 141 << 30)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(devices))
    assert gpus() == (Gpu("NVIDIA Orin", (8, 7), 64 << 30, 16), Gpu("NVIDIA H200", (9, 0), 141 << 30, 16))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(devices, broken=0))
    assert [gpu.name for gpu in gpus()] == ["NVIDIA H200"]


def test_no_driver_no_device_and_a_driver_that_does_not_start_are_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert gpus() == ()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([]))
    assert gpus() == ()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([("GPU", 9, 0, 1)], init=100))
    assert gpus() == ()


@pytest.mark.gpu
def test_the_real_driver_names_a_real_gpu() -> None:
    found = cuda_probe.gpus()
    assert found
    assert all(gpu.name and gpu.capability >= (5, 0) and gpu.memory > 1 << 30 for gpu in found)
