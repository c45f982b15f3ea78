"""An engine on the device, ready to be put on its stream."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
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
    after the other on one stream, so they can share it. ``generation`` rises when it goes or moves."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Buffer | None = None
        self._wanted = _ALIGNMENT
        self.generation = 0

    def reserve(self, size: int) -> None:
        """See that there are ``size`` bytes; :class:`BackendError` where the device has no room for them."""
        self._wanted = max(self._wanted, size)
        if self._buffer is None or self._buffer.size < self._wanted:
            self._give_back()
            self._buffer = self._device.allocate(self._wanted)

    @property
    def place(self) -> tuple[int, int]:
        """Address and size."""
        if self._buffer is None:
            # What was there went when there was no room for more.
            self.reserve(self._wanted)
        buffer = self._buffer
        if buffer is None:
            raise EngineError("the engines have no memory to work in; open the bundle again")
        return buffer.address, buffer.size

    def close(self) -> None:
        """Give the memory back, and forget how much was wanted."""
        self._give_back()
        self._wanted = _ALIGNMENT

    def _give_back(self) -> None:
        if self._buffer is not None:
            self.generation += 1
            buffer, self._buffer = self._buffer, None
            buffer.close()


class EngineCall:
    """An execution context with addresses and shapes of its own. A CUDA graph that it was captured into is good as long
    as it is not bound again: replaying after a context was changed is undefined in TensorRT."""

    def __init__(self, session: EngineSession, context: Any) -> None:
        self._session, self._context = session, context

    def bind(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Say where all tensors lie and what shape the inputs have."""
        context, expect = self._context, self._session.expect
        for name, shape in shapes.items():
            expect(context.set_input_shape(name, shape), f"it takes no {name} of shape {shape}")
        for name, address in addresses.items():
            expect(context.set_tensor_address(name, address), f"it has no tensor {name}")
        context.set_device_memory(*self._session.scratch.place)

    def enqueue(self) -> None:
        """Put the call on the device's stream."""
        done = self._context.execute_async_v3(self._session.device.stream)
        self._session.expect(done, "it could not be put on the stream")

    def close(self) -> None:
        """Give the context back."""
        self._context = None


class EngineSession:
    """A deserialised engine. ``rows`` is the least and the most rows of a call."""

    def __init__(self, flavour: Flavour, path: Path, record: EngineRecord, device: Device, scratch: Scratch) -> None:
        """Open the engine at ``path``, which ``record`` was found to be of.

        Raises :class:`BackendError` where the memory is too small and :class:`EngineError` where TensorRT will not open
        it.
        """
        trt = flavour.module
        self.component = record.component
        self.rows = (record.options.batch[0], record.options.batch[2])
        self.device, self.scratch = device, scratch
        self._flavour = flavour
        streams = record.options.weight_streaming
        if not streams:
            _check_memory(device, record)
        self._logger = _logger(flavour)
        self._logger.errors.clear()
        self._runtime = trt.Runtime(self._logger)
        if record.options.version_compatible:
            self._runtime.engine_host_code_allowed = True
        serialized = path.read_bytes()
        if problem := _invalid(flavour, self._runtime, serialized):
            raise self._failed(problem)
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        # On a board the host's memory is the GPU's.
        del serialized
        if self._engine is None:
            raise self._failed("it does not deserialise")
        if streams:
            # Without a budget all weights would lie on the device after all.
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
        scratch.reserve(int(self._engine.get_device_memory_size_for_profile_v2(0)))
        self._plain: EngineCall | None = None

    def new_call(self, *, whole_graph: bool = False) -> EngineCall:
        """An execution context. ``whole_graph`` matters to TensorRT for RTX alone, which captures and replays whole
        engines by itself; its other contexts, whose addresses change, do not."""
        trt = self._flavour.module
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._flavour.is_rtx:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(managed)
            strategies = trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if whole_graph else strategies.DISABLED
            # Kernels that are made in the background would change the numbers of a run with its timing.
            kernels = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(managed)
        if context is None:
            raise self._failed("no execution context can be made")
        return EngineCall(self, context)

    def call(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Put a call on the stream whose addresses no other will have."""
        if self._plain is None:
            self._plain = self.new_call()
        self._plain.bind(addresses, shapes)
        self._plain.enqueue()

    def expect(self, done: bool, problem: str) -> None:
        """Raise :class:`EngineError` that tells of ``problem`` unless ``done``."""
        if not done:
            raise self._failed(problem)

    def close(self) -> None:
        """Give back what the engine holds on the device; calls of :meth:`new_call` must be closed before."""
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._plain = None
        self._engine = None
        self._runtime = None

    def _failed(self, problem: str) -> EngineError:
        return EngineError(
            f"the engine of {self.component} cannot be used: {problem}{self._logger.last_error()}; build it again with "
            "'copgen-edge build', or use --backend onnxruntime-cpu"
        )


def validity_problem(flavour: Flavour, path: Path) -> str | None:
    """Why TensorRT for RTX will not run the engine at ``path`` on this GPU, asked of its first bytes; None where it
    will, and for TensorRT, which cannot be asked."""
    if not flavour.is_rtx:
        return None
    runtime = flavour.module.Runtime(_logger(flavour))
    with path.open("rb") as file:
        return _invalid(flavour, runtime, file.read(runtime.engine_header_size))


@lru_cache(maxsize=2)
def _logger(flavour: Flavour) -> Any:
    """One a library: TensorRT keeps the first it is given for the whole process."""
    return make_logger(flavour.module)


def _invalid(flavour: Flavour, runtime: Any, serialized: bytes) -> str | None:
    if not flavour.is_rtx:
        return None
    validity, diagnostics = runtime.get_engine_validity(serialized)
    if validity == flavour.module.EngineValidity.INVALID:
        return f"TensorRT for RTX calls it invalid on this GPU (diagnostics {diagnostics})"
    return None


def _check_memory(device: Device, record: EngineRecord) -> None:
    free, total = device.memory()
    if record.bytes > free:
        raise BackendError(
            f"the engine of {record.component} has {record.bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB of "
            f"{total / 1e6:.0f} MB are free on {device.name}; --low-memory keeps one engine at a time, fp16 takes half "
            "of fp32, and 'copgen-edge build --batch 1,1,1' the least scratch memory"
        )
