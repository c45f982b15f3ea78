"""ONNX Runtime on the CPU, or on CUDA where it really runs there."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..components import STEP
from ..errors import BackendError, one_line
from ..precision import choose_precision
from ..solver import Plan
from . import Arrays
from .cuda_probe import gpus
from .host_loop import denoise_on_host
from .ort_loop import BoundLoop, without_graph
from .update import UPDATE_MODEL

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32, on by default since Ampere, keeps ten bits of a float32 operand: fp32 would be no fp32.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}

# A model of one Relu (ONNX IR 7, opset 13): the least that makes a provider prove that it starts.
_TINY_MODEL = (
    b'\x08\x07\x12\x00:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def import_onnxruntime() -> Any:
    """The ``onnxruntime`` module; :class:`BackendError` saying what to do where there is none or it does not load."""
    try:
        module = import_module("onnxruntime")
    except ModuleNotFoundError:
        module = None
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime is installed but does not load ({one_line(error)}); install what it names, or reinstall it"
        ) from error
    if not hasattr(module, "InferenceSession"):
        raise BackendError(
            "ONNX Runtime is not installed; run pip install 'copgen-edge[cpu]', or 'copgen-edge[gpu]' on a machine "
            "with an NVIDIA GPU (not both: they share one folder)"
        )
    return module


@lru_cache(maxsize=1)
def cuda_obstacle() -> str | None:
    """Why ONNX Runtime cannot run on CUDA here, or None where it can, found out by running a one-node model on it."""
    ort = import_onnxruntime()
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (the extra 'gpu' has it)"
    if not gpus():
        return "the NVIDIA driver shows no GPU"
    try:
        _session(ort, _TINY_MODEL, "cuda", 0)
    except BackendError as error:
        return str(error)
    return None


def _session(
    ort: Any, model: bytes | str, device: str, threads: int, *, cuda_graph: bool = False, optimise: bool = True
) -> Any:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    provider = _PROVIDERS[device]
    if device == "cuda":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        # Without this ONNX Runtime hands to the CPU, in silence, whatever CUDA does not take.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = _PROVIDER_OPTIONS[device] | ({"enable_cuda_graph": "1"} if cuda_graph else {})
    try:
        session = ort.InferenceSession(model, options, providers=[(provider, settings)])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        what = model if isinstance(model, str) else "a model of one node"
        raise BackendError(f"ONNX Runtime could not open {what} on {provider}: {one_line(error)}") from error
    running = session.get_providers()[0]
    if running != provider:
        raise BackendError(f"asked ONNX Runtime for {provider} but {running} runs; check the driver, CUDA and cuDNN")
    return session


def cpu_session(path: Path, threads: int = 0, *, optimise: bool = True) -> Any:
    """An ONNX Runtime session of ``path`` on the CPU, for graphs that are no component of a bundle; without
    ``optimise`` the nodes run as they stand.

    Raises :class:`BackendError` where ONNX Runtime is missing or refuses the file.
    """
    return _session(import_onnxruntime(), str(path), "cpu", threads, optimise=optimise)


class OnnxRuntimeBackend:
    """Components of a bundle as ONNX Runtime sessions, made at first use.

    On CUDA the denoising loop runs on the device, and its network as a CUDA graph where ``cuda_graph`` asks for one.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        precision: str,
        reason: str,
        threads: int,
        cuda_graph: bool,
        max_drift: float | None = None,
    ) -> None:
        self._ort = import_onnxruntime()
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._loop: BoundLoop | None = None
        self._cuda_graph = cuda_graph
        self._graph_note = "not tried yet" if cuda_graph else "no: not asked for"
        self.name = f"onnxruntime-{device}"
        self.precision, note = choose_precision(bundle, self.name, precision, max_drift)
        self.reason = f"{reason}; {note}" if note else reason

    def check(self, component: str) -> None:
        """Raise :class:`BundleError` where the bundle lacks the component in this precision."""
        self._bundle.variant(component, self.precision)

    def load(self, component: str) -> None:
        """Check the component's files against the manifest and open a session; nothing where one is open."""
        if component in self._sessions:
            return
        path = str(self._bundle.onnx_path(component, self.precision))
        if component == STEP and self._device == "cuda":
            self._load_step(path)
        else:
            self._sessions[component] = _session(self._ort, path, self._device, self._threads)

    def _load_step(self, path: str) -> None:
        if self._cuda_graph:
            try:
                step = _session(self._ort, path, self._device, self._threads, cuda_graph=True)
                self._graph_note = "yes"
            except BackendError as error:
                self._cuda_graph, self._graph_note = False, f"no: {error}"
        if not self._cuda_graph:
            step = _session(self._ort, path, self._device, self._threads)
        update = _session(self._ort, str(UPDATE_MODEL), self._device, self._threads)
        self._loop = BoundLoop(self._ort, step, update, self._device, self._cuda_graph, self.precision)
        self._sessions[STEP] = step

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name. Raises :class:`BackendError` where the engine fails."""
        self.load(component)
        names = [spec.name for spec in self._bundle.component(component).outputs]
        # Inputs come at another address each time, which a captured graph would not see.
        options = without_graph(self._ort) if component == STEP and self._loop and self._cuda_graph else None
        try:
            values = self._sessions[component].run(names, dict(inputs), options)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise BackendError(f"{component} failed in {self.name}: {one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def denoise(
        self,
        plan: Plan,
        latents: NDArray[np.float32],
        times: NDArray[np.float32],
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """On the CPU by :func:`~.host_loop.denoise_on_host`, on CUDA by a :class:`~.ort_loop.BoundLoop`.

        Raises :class:`BackendError` where the engine fails, and :class:`NonFiniteError` where the network does.
        """
        self.load(STEP)
        if self._loop is None:
            return denoise_on_host(self, plan, latents, times, moving, report)
        return self._loop.denoise(plan, latents, times, moving, report)

    def release(self, component: str) -> None:
        """Close the component's session, and give back its memory."""
        if component == STEP:
            self._loop = None
        self._sessions.pop(component, None)

    def describe(self) -> dict[str, Any]:
        """What runs: backend, provider, device, precision, reason, version, threads, and on CUDA whether the network
        runs as a CUDA graph."""
        found = gpus()
        return {
            "backend": self.name,
            "provider": _PROVIDERS[self._device],
            "device": found[0].name if self._device == "cuda" and found else "CPU",
            "precision": self.precision,
            "reason": self.reason,
            "onnxruntime": self._ort.__version__,
            "threads": self._threads or "default",
            **({"cuda_graph": self._graph_note} if self._device == "cuda" else {}),
        }
