"""A TensorRT whose engines are ONNX files that ONNX Runtime runs on the memory of a :class:`FakeDevice`."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
from copgen_edge.runtime.backends.cuda_probe import Gpu
from copgen_edge.runtime.backends.update import UPDATE_MODEL
from copgen_edge.runtime.bundle import Bundle, sha256
from copgen_edge.runtime.engines.cache import FOLDER, engine_path, record_path
from copgen_edge.runtime.engines.flavours import Flavour
from copgen_edge.runtime.engines.options import BuildOptions
from copgen_edge.runtime.engines.record import UPDATE, UPDATE_PRECISION, EngineRecord, onnx_hashes

from .fake_device import FakeDevice

THE_GPU = Gpu("NVIDIA Test", (8, 9), 1 << 33, 60)
_MARK = b"engine of "


class Severity(Enum):
    ERROR = 1
    INTERNAL_ERROR = 2


class _Logger:
    Severity = Severity


class _Context:
    """Captured calls hold it to what it was: TensorRT does not say what a replay does once its context has changed."""

    def __init__(self, device: FakeDevice, session: Any, needs: int) -> None:
        self._device, self._session, self._needs = device, session, needs
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._changes = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._changes += 1
        self._shapes[name] = shape
        return name in {value.name for value in self._session.get_inputs()}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._changes += 1
        self._addresses[name] = address
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        return name in {value.name for value in values}

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self._needs
        self._scratch = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self._device.stream
        addresses, shapes, scratch, changes = dict(self._addresses), dict(self._shapes), self._scratch, self._changes

        def work() -> None:
            assert changes == self._changes, "a context was changed after its call was put on the stream"
            # An engine writes all over its scratch memory, which must still be there.
            self._device.at(*scratch).fill(0xFF)
            given = {}
            for value in self._session.get_inputs():
                shape = shapes.get(value.name) or tuple(value.shape)
                given[value.name] = self._device.floats(addresses[value.name], shape)
            names = [output.name for output in self._session.get_outputs()]
            for name, found in zip(names, self._session.run(names, given), strict=True):
                self._device.floats(addresses[name], found.shape)[:] = found

        self._device.put(work)
        return True


class _Engine:
    def __init__(self, device: FakeDevice, path: Path, needs: int) -> None:
        self._device, self._needs = device, needs
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return self._needs

    def create_execution_context(self, strategy: str | RuntimeConfig) -> _Context:
        if isinstance(strategy, RuntimeConfig):
            self._device.log.append(f"graphs {strategy.cuda_graph_strategy}")
            assert strategy.dynamic_shapes_kernel_specialization_strategy == "eager"
            strategy = strategy.allocation
        assert strategy == "user managed"
        return _Context(self._device, self._session, self._needs)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()


class RuntimeConfig:
    """What TensorRT for RTX asks for an execution context."""

    allocation = "static"
    cuda_graph_strategy = "disabled"
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


def fake_flavour(device: FakeDevice, *, rtx: bool = False, valid: bool = True) -> Flavour:
    """A ``tensorrt`` 10.13, or a TensorRT for RTX, whose engines need more scratch memory the longer their name is."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        engine_header_size = 64

        def get_engine_validity(self, serialized: bytes) -> tuple[str, int]:
            return ("valid" if valid else "invalid"), 32

        def deserialize_cuda_engine(self, serialized: bytes) -> _Engine | None:
            if not serialized.startswith(_MARK):
                self._logger.log(Severity.ERROR, "magic tag does not match")
                return None
            path = Path(serialized.removeprefix(_MARK).decode())
            return _Engine(device, path, 1000 * len(path.name))

    module = ModuleType("tensorrt")
    strategies = type("Strategies", (), {"USER_MANAGED": "user managed"})
    module.__dict__.update(ILogger=_Logger, Runtime=Runtime, ExecutionContextAllocationStrategy=strategies)
    _Logger.__init__ = lambda self: None  # type: ignore[method-assign]
    if not rtx:
        return Flavour("tensorrt", "10.13.0", module)
    module.__dict__.update(
        EngineValidity=type("Validity", (), {"INVALID": "invalid"}),
        CudaGraphStrategy=type("Graphs", (), {"DISABLED": "disabled", "WHOLE_GRAPH_CAPTURE": "whole"}),
        DynamicShapesKernelSpecializationStrategy=type("Kernels", (), {"EAGER": "eager"}),
    )
    return Flavour("tensorrt-rtx", "1.7.1.116", module)


def write_engines(bundle: Bundle, *, batch: tuple[int, int, int] = (1, 2, 4), **changes: Any) -> list[Path]:
    """Put into the cache what a build would have; ``changes`` go to every record."""
    written = []
    for component in (*bundle.manifest.components, UPDATE):
        precision = UPDATE_PRECISION if component == UPDATE else "fp32"
        onnx = UPDATE_MODEL if component == UPDATE else bundle.onnx_path(component, precision)
        path = engine_path(bundle.root / FOLDER / "tensorrt-10.13.0-sm89", component, precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_MARK + str(onnx.resolve()).encode())
        record = EngineRecord(
            component=component,
            precision=precision,
            onnx=onnx_hashes(bundle, component, precision),
            flavour="tensorrt",
            version="10.13.0",
            gpu=THE_GPU.name,
            capability="8.9",
            processors=THE_GPU.processors,
            options=BuildOptions(batch=batch),
            bytes=path.stat().st_size,
            sha256=sha256(path),
        )
        record_path(path).write_text(replace(record, **changes).to_json(), encoding="utf-8")
        written.append(path)
    return written
