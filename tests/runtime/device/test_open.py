"""Which implementation is taken, and what is said where none can be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copgen_edge.runtime.backends.cuda_probe import gpus
from copgen_edge.runtime.device import open_device
from copgen_edge.runtime.errors import BackendError, CaptureError, DeviceError, RequestError


def test_importing_loads_neither_pycuda_nor_cuda() -> None:
    code = (
        "import sys, copgen_edge.runtime, copgen_edge.runtime.device as device\n"
        "assert device.open_device\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'pycuda', 'cuda', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["numpy"], "")


def test_the_errors_are_of_the_family() -> None:
    assert issubclass(CaptureError, DeviceError)
    assert not issubclass(DeviceError, RequestError)


@pytest.mark.parametrize(
    ("kind", "reason"), [("pycuda", "pycuda is installed"), ("cuda-bindings", "pycuda is not installed")]
)
def test_pycuda_is_taken_where_it_is(new_machine: Callable[[str], Any], kind: str, reason: str) -> None:
    new_machine(kind)
    with open_device() as device:
        assert (device.kind, device.reason) == (kind, reason)


def install_broken(package: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose ``driver`` fails to load, in place of what is in ``sys.modules``."""
    *parents, last = package.split(".")
    at = folder.joinpath(*parents)
    at.mkdir(parents=True)
    (at / f"{last}.py").write_text(f"raise ImportError({text!r})")
    for depth in range(1, len(parents) + 1):
        folder.joinpath(*parents[:depth], "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == parents[0]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder))


def test_a_pycuda_that_does_not_load_is_passed_over_and_said(
    new_machine: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new_machine("pycuda")
    install_broken("pycuda.driver", "libcurand.so.10:\ncannot open", tmp_path, monkeypatch)
    with open_device() as device:
        assert device.kind == "cuda-bindings"
        assert device.reason == "pycuda is installed but does not load (libcurand.so.10: cannot open)"


@pytest.mark.parametrize("kind", ["pycuda", "cuda-bindings"])
def test_without_cuda_bindings_the_command_is_named(
    new_machine: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    machine = new_machine(kind)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # type: ignore[arg-type]
    with pytest.raises(
        BackendError, match=r"cuda-bindings is not installed.*pip install --upgrade 'copgen-edge\[tensorrt\]'"
    ):
        open_device()
    assert machine.calls == []


def test_cuda_bindings_that_do_not_load_are_not_called_missing(
    new_machine: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new_machine("cuda-bindings")
    install_broken("cuda.bindings.driver", "undefined symbol", tmp_path, monkeypatch)
    with pytest.raises(BackendError, match=r"installed but does not load \(undefined symbol\).*run pip install"):
        open_device()


@pytest.mark.parametrize("ordinal", [-1, 1, 4])
def test_a_gpu_that_is_not_there_is_refused(machine: Any, ordinal: int) -> None:
    with pytest.raises(
        BackendError, match=f"GPU number {ordinal} was asked for but the driver shows 1, counted from 0"
    ):
        open_device(ordinal)
    assert machine.live == {}


def test_a_call_that_the_driver_lacks_is_an_error_that_says_what_to_update(machine: Any) -> None:
    with open_device() as device:

        def missing(size: int, flags: int = 0) -> None:
            raise RuntimeError('Function "cuGraphInstantiate" not found')

        machine.cuGraphInstantiate = missing
        with pytest.raises(
            CaptureError, match=r"cuGraphInstantiate could not be called \(Function .* not found\); install"
        ):
            device.capture(lambda: None)
        assert {kind for kind, _ in machine.live} == {"context", "stream"}


@pytest.mark.skipif(bool(gpus()), reason="this machine has a GPU")
def test_the_real_bindings_without_a_driver_are_a_backend_error() -> None:
    pytest.importorskip("cuda.bindings.driver")
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used here: cuInit .*; ") as caught:
        open_device()
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_a_real_gpu_opens_by_its_name() -> None:
    with open_device() as device:
        assert device.name == gpus()[0].name
        assert device.stream
