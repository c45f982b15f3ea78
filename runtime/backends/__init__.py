"""One contract, several engines. A backend knows components and their tensors, not COP-GEN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BackendError
from ..solver import Plan
from .cuda_probe import gpus

Arrays = Mapping[str, NDArray[np.generic]]

BACKENDS = ("auto", "tensorrt", "onnxruntime-cuda", "onnxruntime-cpu")


class Backend(Protocol):
    """What runs a bundle's components. Sessions are made at first use and kept until :meth:`release`."""

    name: str
    precision: str
    reason: str

    def check(self, component: str) -> None:
        """Raise :class:`BundleError` or :class:`BackendError` where the component is not there to run: a long run must
        not end at a decoder that never was."""

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs of ``component`` by name for ``inputs`` by name, all with one batch dimension first."""

    def denoise(
        self,
        plan: Plan,
        latents: NDArray[np.float32],
        times: NDArray[np.float32],
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """The latents (rows, 26118) float32 at the end of ``plan``, which starts from ``latents`` of the same shape.

        ``times`` (K, 12) float32 in 0..1000 are each modality's timesteps at each of the plan's K calls, the same for
        all rows; ``moving`` (26118,) says which latents change. ``report`` is called with the calls done. Raises
        :class:`NonFiniteError` naming the call at which the network gave NaN or infinity for a latent that moves.
        """

    def load(self, component: str) -> None:
        """Make the component ready; done by :meth:`run` where it was not."""

    def release(self, component: str) -> None:
        """Give back what the component holds; nothing where it is not loaded."""

    def describe(self) -> dict[str, Any]:
        """Backend, provider and device that really run, precision, and versions: for the result's metadata."""


@runtime_checkable
class TimesSteps(Protocol):
    """A backend whose loop is on a stream of its own, and can be timed there."""

    def time_steps(self, rows: int, calls: int) -> dict[str, float]:
        """Seconds of a step: ``enqueue``, ``enqueue_gpu``, and with graphs ``replay``, ``replay_gpu``."""


def create_backend(
    bundle: Bundle,
    name: str,
    *,
    precision: str = "auto",
    max_drift: float | None = None,
    threads: int = 0,
    cuda_graph: bool = True,
) -> Backend:
    """The backend ``name`` of :data:`BACKENDS` on ``bundle``.

    ``auto`` takes TensorRT where the bundle's cache has engines for this GPU of all components, else CUDA where ONNX
    Runtime can run it, else the CPU; its ``reason`` says why, and what was in the way of what it passed over.
    ``precision`` and ``max_drift`` are :func:`~copgen_edge.runtime.precision.choose_precision`'s. ``threads`` 0 leaves
    the number to the engine. ``cuda_graph`` lets the network run as a CUDA graph where the engine can; on a CPU it
    means nothing.

    Raises :class:`BackendError` for an unknown name, for ``tensorrt`` and ``onnxruntime-cuda`` where they cannot run,
    and where no ONNX Runtime is installed; :class:`BundleError` where the bundle lacks the precision.
    """
    from .onnxruntime import OnnxRuntimeBackend, cuda_obstacle

    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
    if threads < 0:
        raise BackendError(f"found {threads} threads, expected 1 or more, or 0 for the engine's own choice")
    if name == "onnxruntime-cpu":
        return OnnxRuntimeBackend(bundle, "cpu", precision, "asked for", threads, cuda_graph, max_drift)
    if name == "tensorrt":
        from .tensorrt import TensorRtBackend

        return TensorRtBackend(bundle, precision, "asked for", cuda_graph=cuda_graph, max_drift=max_drift)
    passed_over = ""
    if name == "auto" and gpus():
        from .tensorrt import TensorRtBackend, tensorrt_obstacle

        no_engines = tensorrt_obstacle(bundle, precision, max_drift)
        if no_engines is None:
            reason = "auto: the bundle has TensorRT engines for this GPU"
            return TensorRtBackend(bundle, precision, reason, cuda_graph=cuda_graph, max_drift=max_drift)
        passed_over = f"; no TensorRT: {no_engines}"
    obstacle = cuda_obstacle()
    if obstacle is None:
        reason = "asked for" if name != "auto" else "auto: a CUDA device and ONNX Runtime's CUDA provider were found"
        return OnnxRuntimeBackend(bundle, "cuda", precision, reason + passed_over, threads, cuda_graph, max_drift)
    if name == "onnxruntime-cuda":
        raise BackendError(f"onnxruntime-cuda cannot run here: {obstacle}; use --backend onnxruntime-cpu or auto")
    return OnnxRuntimeBackend(
        bundle, "cpu", precision, f"auto: no CUDA here, {obstacle}{passed_over}", threads, cuda_graph, max_drift
    )
