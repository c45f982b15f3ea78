"""One engine, built in a process of its own: ``python -m copgen_edge.runtime.engines.worker``.

The request is a line of JSON on standard input, the progress and the result are lines of JSON on standard output. A
builder keeps gigabytes and gives them back only when its process ends.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..folders import whole_file
from ..memory import peak_bytes
from .flavours import Flavour, find_flavour
from .logger import make_logger
from .options import BuildOptions

_LEVELS = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


def main() -> None:
    """Build what standard input asks for."""
    request = json.loads(sys.stdin.readline())
    flavour = find_flavour(request["flavour"])
    options = BuildOptions.from_json(request["options"])
    begun = time.monotonic()
    logger = make_logger(flavour.module)
    try:
        engine, used_cache = _build(flavour, options, Path(request["onnx"]), Path(request["timing_cache"]), logger)
        with Path(request["out"]).open("wb") as file:
            file.write(engine)
    except _BuildError as error:
        _tell(error=f"{error}{logger.last_error()}")
        return
    except OSError as error:
        _tell(error=f"{error.filename or request['out']}: {error.strerror}; free space, or build on another disk")
        return
    _tell(
        done={
            "seconds": round(time.monotonic() - begun, 2),
            "peak_bytes": peak_bytes(),
            "attention": len(logger.fused),
            "timing_cache": used_cache,
        }
    )


class _BuildError(Exception):
    """The builder gave nothing."""


def _build(flavour: Flavour, options: BuildOptions, onnx: Path, timing_cache: Path, logger: Any) -> tuple[Any, str]:
    trt = flavour.module
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # By path, so that the parser finds weights that lie beside the file.
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise _BuildError(f"{onnx.name} does not parse: {' '.join(errors.split())[:500]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        # What the solver's update reads beside latents has no batch.
        if tensor.shape[0] == -1:
            profile.set_shape(tensor.name, *((size, *tuple(tensor.shape)[1:]) for size in options.batch))
    config.add_optimization_profile(profile)
    _configure(trt, flavour, config, options)
    config.progress_monitor = _monitor(trt)
    used = "none" if flavour.is_rtx else _load_timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _BuildError(f"{flavour.name} {flavour.version} could not build {onnx.name}")
    cache = None if flavour.is_rtx else config.get_timing_cache()
    if cache is not None:
        with whole_file(timing_cache) as partial:
            partial.write_bytes(bytes(cache.serialize()))
    return engine, used


def _configure(trt: Any, flavour: Flavour, config: Any, options: BuildOptions) -> None:
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, _LEVELS[options.hardware_compatibility])
        config.hardware_compatibility_level = level
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for i, capability in enumerate(options.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i)
    # Only then does the builder tell of the layers of the engine, by which fused attentions are counted.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # Ten bits of an operand are no float32, of which fp32 files and the islands in fp16 files are made.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The two exclude each other.
    if flavour.is_rtx and not options.weight_streaming:
        # Without it a step cannot be captured into a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _load_timing_cache(config: Any, path: Path) -> str:
    if path.is_file():
        cache = config.create_timing_cache(path.read_bytes())
        # Another device's is refused, and a damaged one is None.
        if cache is not None and config.set_timing_cache(cache, False):
            return "reused"
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return "new"


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the steps of the outermost phase, which are those of the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outermost = ""
            self.steps = 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.outermost, self.steps = name, steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                if name == self.outermost:
                    _tell(step=step + 1, steps=self.steps)
            except BrokenPipeError:
                # Nobody waits for the engine any more.
                return False
            return True

        def phase_finish(self, name: str) -> None:
            return None

    return Monitor()


def _tell(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
