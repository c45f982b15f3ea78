"""An engine on the device, ready to be put on its stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..device import Buffer, Device
from ..errors import BackendError, EngineError
from .flavours import Flavour
from .logger import make_logger
from .record import EngineRecord

_ALIGNMENT = 256


class Scratch:
    """The one piece of device memory in which all engines work, as large as the largest of them needs. Engines run one
    after the other on one stream, so they can share it. ``generation`` rises when it moves."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Buffer | None = None
        self.generation = 0

    def reserve(self, size: int) -> None:
        """See that there are ``size`` bytes."""
        if self._buffer is None or self._buffer.size < size:
            self._device.synchronize()
            self.close()
            self._buffer = self._device.allocate(max(size, _ALIGNMENT))
            self.generation += 1

    @property
    def place(self) -> tuple[int, int]:
        """Address and size."""
        if self._buffer is None:
            raise EngineError("an engine was put on the stream before memory was reserved for it; this is a bug")
        return self._buffer.address, self._buffer.size

    def close(self) -> None:
        """Give the memory back."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None


class EngineSession:
    """A deserialised engine with one execution context. ``rows`` is the least and the most rows of a call."""

    def __init__(
        self, flavour: Flavour, path: Path, record: EngineRecord, device: Device, scratch: Scratch, *, cuda_graph: bool
    ) -> None:
        """Open the engine at ``path``, which ``record`` was found to be of.

        ``cuda_graph`` matters to TensorRT for RTX alone, which captures and replays whole engines by itself. Raises
        :class:`BackendError` where the memory is too small and :class:`EngineError` where TensorRT will not open it.
        """
        trt = flavour.module
        self.component = record.component
        self.rows = (record.options.batch[0], record.options.batch[2])
        self._device, self._scratch = device, scratch
        _check_memory(device, record)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        if record.options.version_compatible:
            self._runtime.engine_host_code_allowed = True
        serialized = path.read_bytes()
        if flavour.is_rtx:
            validity, diagnostics = self._runtime.get_engine_validity(serialized)
            if validity == trt.EngineValidity.INVALID:
                raise self._failed(f"TensorRT for RTX calls it invalid here (diagnostics {diagnostics})")
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise self._failed("it does not deserialise")
        self.scratch_bytes = int(self._engine.get_device_memory_size_for_profile_v2(0))
        scratch.reserve(self.scratch_bytes)
        self._context = self._new_context(trt, flavour, cuda_graph)
        if self._context is None:
            raise self._failed("no execution context can be made")

    def enqueue(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Put a call on the device's stream. ``addresses`` has all tensors, ``shapes`` the inputs."""
        context = self._context
        for name, shape in shapes.items():
            self._expect(context.set_input_shape(name, shape), f"takes no {name} of shape {shape}")
        for name, address in addresses.items():
            self._expect(context.set_tensor_address(name, address), f"has no tensor {name}")
        # It moves when a larger engine is loaded.
        context.set_device_memory(*self._scratch.place)
        self._expect(context.execute_async_v3(self._device.stream), "could not be put on the stream")

    def close(self) -> None:
        """Give back what the engine holds on the device."""
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._context = None
        self._engine = None
        self._runtime = None

    def _new_context(self, trt: Any, flavour: Flavour, cuda_graph: bool) -> Any:
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not flavour.is_rtx:
            return self._engine.create_execution_context(managed)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
        return self._engine.create_execution_context(config)

    def _expect(self, done: bool, problem: str) -> None:
        if not done:
            raise self._failed(problem)

    def _failed(self, problem: str) -> EngineError:
        return EngineError(
            f"the engine of {self.component} cannot be used: {problem}{self._logger.last_error()}; build it again with "
            "'copgen-edge build', or use --backend onnxruntime-cpu"
        )


def _check_memory(device: Device, record: EngineRecord) -> None:
    free, total = device.memory()
    if record.bytes > free:
        raise BackendError(
            f"the engine of {record.component} has {record.bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB of "
            f"{total / 1e6:.0f} MB are free on {device.name}; --low-memory keeps one engine at a time, fp16 takes half "
            "of fp32, and 'copgen-edge build --batch 1,1,1' the least scratch memory"
        )
