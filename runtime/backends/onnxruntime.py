"""ONNX Runtime on the CPU, or on CUDA where it really runs there."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BackendError, BundleError
from . import Arrays
from .cuda_probe import gpus

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
            f"ONNX Runtime is installed but does not load ({_one_line(error)}); install what it names, or reinstall it"
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


def _session(ort: Any, model: bytes | str, device: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    provider = _PROVIDERS[device]
    if device == "cuda":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        # Without this ONNX Runtime hands to the CPU, in silence, whatever CUDA does not take.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(model, options, providers=[(provider, _PROVIDER_OPTIONS[device])])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        what = model if isinstance(model, str) else "a model of one node"
        raise BackendError(f"ONNX Runtime could not open {what} on {provider}: {_one_line(error)}") from error
    running = session.get_providers()[0]
    if running != provider:
        raise BackendError(f"asked ONNX Runtime for {provider} but {running} runs; check the driver, CUDA and cuDNN")
    return session


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class OnnxRuntimeBackend:
    """Components of a bundle as ONNX Runtime sessions, made at first use."""

    def __init__(self, bundle: Bundle, device: str, precision: str, reason: str, threads: int) -> None:
        self._ort = import_onnxruntime()
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self.name = f"onnxruntime-{device}"
        self.reason = reason
        self.precision = _choose_precision(bundle, precision, device)

    def load(self, component: str) -> None:
        """Check the component's files against the manifest and open a session; nothing where one is open."""
        if component not in self._sessions:
            path = self._bundle.onnx_path(component, self.precision)
            self._sessions[component] = _session(self._ort, str(path), self._device, self._threads)

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name. Raises :class:`BackendError` where the engine fails."""
        self.load(component)
        names = [spec.name for spec in self._bundle.component(component).outputs]
        try:
            values = self._sessions[component].run(names, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise BackendError(f"{component} failed in {self.name}: {_one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def release(self, component: str) -> None:
        """Close the component's session, and give back its memory."""
        self._sessions.pop(component, None)

    def describe(self) -> dict[str, Any]:
        """What runs: backend, provider, device, precision, reason, version, threads."""
        found = gpus()
        return {
            "backend": self.name,
            "provider": _PROVIDERS[self._device],
            "device": found[0].name if self._device == "cuda" and found else "CPU",
            "precision": self.precision,
            "reason": self.reason,
            "onnxruntime": self._ort.__version__,
            "threads": self._threads or "default",
        }


def _choose_precision(bundle: Bundle, wanted: str, device: str) -> str:
    there = bundle.precisions()
    if wanted != "auto":
        if wanted not in there:
            raise BundleError(
                f"{bundle.root} has every component in {', '.join(there) or 'no one precision'}, not in {wanted}; "
                f"export it with --precision {wanted}"
            )
        return wanted
    for precision in ("fp16", "fp32") if device == "cuda" else ("fp32", "fp16"):
        if precision in there:
            return precision
    raise BundleError(f"{bundle.root} has no precision in which every component is there; export it again")
