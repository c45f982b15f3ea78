"""TensorRT engines on the device, of any flavour, opened when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..components import STEP
from ..device import Buffer, Device, open_device
from ..engines.flavours import Flavour, installed_flavours
from ..engines.match import usable_engine
from ..engines.record import UPDATE, UPDATE_PRECISION
from ..engines.session import EngineSession, Scratch, validity_problem
from ..errors import BackendError, BundleError, DeviceError
from ..precision import choose_precision
from ..solver import Plan
from . import Arrays
from .cuda_probe import Gpu, gpus
from .engine_loop import EngineLoop
from .host_loop import failed_once, step_failed

Floats = NDArray[np.float32]

_MAX_LOOPS = 4
"""Row counts for which buffers and graphs are kept."""


def tensorrt_obstacle(bundle: Bundle, precision: str, max_drift: float | None = None) -> str | None:
    """Why TensorRT cannot run all components of ``bundle`` in ``precision`` (or ``auto``) here, or None where it can as
    far as the engines' records and SHA-256, the library and the device tell."""
    try:
        flavour, found, gpu = _choose(bundle, precision, max_drift)
        for component in bundle.manifest.components:
            usable_engine(bundle, component, found, flavour, gpu)
        if problem := validity_problem(flavour, usable_engine(bundle, STEP, found, flavour, gpu)[0]):
            return problem
        open_device().close()
    except (BackendError, BundleError, DeviceError) as error:
        return str(error)
    return None


def _choose(bundle: Bundle, precision: str, max_drift: float | None) -> tuple[Flavour, str, Gpu]:
    """The first flavour that is installed and has engines of the network and the solver's update for this GPU, in
    ``precision``, or for ``auto`` in what :func:`choose_precision` takes, or fp32 where only that is built. Raises
    :class:`BackendError` that tells of all tried.
    """
    found = gpus()
    if not found:
        raise BackendError("the NVIDIA driver shows no GPU here, which TensorRT needs; use --backend onnxruntime-cpu")
    best, _ = choose_precision(bundle, "tensorrt", precision, max_drift)
    also = ("fp32",) if precision == "auto" and best == "fp16" and "fp32" in bundle.precisions() else ()
    problems = []
    for flavour in installed_flavours():
        for wanted in (best, *also):
            try:
                usable_engine(bundle, STEP, wanted, flavour, found[0])
                usable_engine(bundle, UPDATE, UPDATE_PRECISION, flavour, found[0])
            except BackendError as error:
                problems.append(str(error))
            else:
                return flavour, wanted, found[0]
    raise BackendError("; ".join(problems))


class TensorRtBackend:
    """Components of a bundle as engines. ``cuda_graph`` off is for comparison: the results are the same."""

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        reason: str,
        *,
        cuda_graph: bool = True,
        device: Device | None = None,
        max_drift: float | None = None,
    ) -> None:
        """Raises :class:`BackendError` where there is no TensorRT, no GPU, or no engine of the network for it."""
        self.reason = reason
        self._bundle = bundle
        self._flavour, self.precision, self._gpu = _choose(bundle, precision, max_drift)
        self._cuda_graph = cuda_graph
        self._device = device or open_device()
        self._scratch = Scratch(self._device)
        self._sessions: dict[str, EngineSession] = {}
        self._loops: dict[tuple[int, int], EngineLoop] = {}
        self._edges: dict[tuple[str, str], Buffer] = {}
        self._last_plan: Plan | None = None
        self._obstacle: str | None = None

    def check(self, component: str) -> None:
        """Raise :class:`BackendError` where no engine of ``component`` can run here."""
        usable_engine(self._bundle, component, self.precision, self._flavour, self._gpu)

    def load(self, component: str) -> None:
        """Open the engine of ``component`` where it is not open; with the network comes the solver's update."""
        self._device.activate()
        for name in (component, UPDATE) if component == STEP else (component,):
            if name not in self._sessions:
                precision = UPDATE_PRECISION if name == UPDATE else self.precision
                path, record = usable_engine(self._bundle, name, precision, self._flavour, self._gpu)
                self._sessions[name] = EngineSession(self._flavour, path, record, self._device, self._scratch)

    def release(self, component: str) -> None:
        """Close the engine, and give back its memory; the shared scratch memory goes with the last."""
        self._device.activate()
        for name in (component, UPDATE) if component == STEP else (component,):
            session = self._sessions.pop(name, None)
            if session is not None:
                if name in (STEP, UPDATE):
                    self._drop_loops()
                session.close()
            for key in [key for key in self._edges if key[0] == name]:
                self._edges.pop(key).close()
        if not self._sessions:
            self._scratch.close()

    def run(self, component: str, inputs: Arrays) -> dict[str, Floats]:
        """Outputs by name, in calls of at most the rows that the engine was built for; a call of fewer than its least
        is filled up. Raises :class:`BackendError` and :class:`EngineError` as :meth:`load` does."""
        self.load(component)
        session = self._sessions[component]
        outputs = self._bundle.component(component).outputs
        count = len(next(iter(inputs.values())))
        parts: dict[str, list[Floats]] = {spec.name: [] for spec in outputs}
        for start in range(0, count, session.rows[1]):
            part = {name: np.asarray(array[start : start + session.rows[1]]) for name, array in inputs.items()}
            for name, found in self._call(component, session, part).items():
                parts[name].append(found)
        return {name: np.concatenate(found) for name, found in parts.items()}

    def denoise(
        self,
        plan: Plan,
        latents: Floats,
        times: Floats,
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> Floats:
        """``latents`` (rows, 26118) after ``plan``, as :meth:`Backend.denoise` says; nothing leaves the device before
        the last call. Raises :class:`NonFiniteError` naming the call, which a second run finds."""
        self.load(STEP)
        least, most = self._sessions[STEP].rows
        found = []
        for start in range(0, len(latents), most):
            part = latents[start : start + most]
            # What comes with the plan of the call before is the rest of one run: it brings no new shape.
            rest = plan is self._last_plan
            self._last_plan = plan
            loop = self._loop(max(least, len(part)), rest=rest)
            filled = _fill(part, loop.rows)
            result = loop.run(plan, filled, times, moving, report)
            self._obstacle = self._obstacle or loop.obstacle
            if not np.isfinite(result).all():
                self._name_the_call(loop, plan, filled, times, moving)
            found.append(result[: len(part)])
        return np.concatenate(found)

    def time_steps(self, rows: int, calls: int) -> dict[str, float]:
        """Seconds of a step of ``rows`` rows, as :meth:`EngineLoop.time_steps` says; for ``copgen-edge bench``."""
        self.load(STEP)
        least, most = self._sessions[STEP].rows
        if not least <= rows <= most:
            raise BackendError(f"the engine was built for {least} to {most} rows, found {rows}; build with --batch")
        return self._loop(rows).time_steps(calls)

    def close(self) -> None:
        """Give everything on the device back, whatever fails on the way."""
        with ExitStack() as stack:
            stack.callback(self._device.close)
            for component in list(self._sessions):
                stack.callback(self.release, component)

    def describe(self) -> dict[str, Any]:
        """What runs: flavour, version, GPU, precision, reason, and whether steps are replayed as CUDA graphs."""
        by_whom = "yes, by TensorRT for RTX itself" if self._flavour.is_rtx else "yes"
        graphs = by_whom if self._cuda_graph else "no: not asked for"
        self._device.activate()
        free, total = self._device.memory()
        return {
            "backend": self.name,
            "provider": f"{self._flavour.name} {self._flavour.version}",
            "device": self._gpu.name,
            "precision": self.precision,
            "reason": self.reason,
            "driver": f"{self._device.kind} ({self._device.reason})",
            "device_memory_bytes": total,
            "device_memory_free_bytes": free,
            "cuda_graph": f"no: {self._obstacle}" if self._obstacle else graphs,
            "threads": "default",
        }

    def _call(self, component: str, session: EngineSession, inputs: Arrays) -> dict[str, Floats]:
        count = len(next(iter(inputs.values())))
        rows = max(count, session.rows[0])
        device = self._device
        addresses, shapes, found = {}, {}, {}
        for name, array in inputs.items():
            filled = _fill(np.ascontiguousarray(array, np.float32), rows)
            addresses[name], shapes[name] = self._edge(component, name, filled.nbytes), filled.shape
            device.upload(addresses[name], filled)
        for spec in self._bundle.component(component).outputs:
            found[spec.name] = np.empty((rows, *(int(size) for size in spec.shape[1:])), np.float32)
            addresses[spec.name] = self._edge(component, spec.name, found[spec.name].nbytes)
        session.call(addresses, shapes)
        for name, array in found.items():
            device.download(array, addresses[name])
        device.synchronize()
        return {name: array[:count] for name, array in found.items()}

    def _edge(self, component: str, tensor: str, size: int) -> int:
        """The address of ``size`` bytes for an input or output, kept until the component is released."""
        there = self._edges.get((component, tensor))
        if there is None or there.size < size:
            if there is not None:
                self._edges.pop((component, tensor)).close()
            there = self._edges[component, tensor] = self._device.allocate(size)
        return there.address

    def _loop(self, rows: int, *, rest: bool = False) -> EngineLoop:
        """A loop of ``rows`` rows; for the rest of a run the smallest there is of as many or more."""
        # What moved the scratch memory took it from under the calls that are bound to it.
        generation = self._scratch.generation
        for key in [key for key in self._loops if key[1] != generation]:
            self._loops.pop(key).close()
        there = [size for size, _ in sorted(self._loops) if size == rows or (rest and size > rows)]
        if there:
            return self._loops[there[0], generation]
        if len(self._loops) == _MAX_LOOPS:
            self._loops.pop(next(iter(self._loops))).close()
        # TensorRT for RTX captures by itself, which is the way it supports.
        own = self._flavour.is_rtx
        step, update = self._sessions[STEP], self._sessions[UPDATE]
        loop = EngineLoop(
            self._device,
            partial(step.new_call, whole_graph=self._cuda_graph),
            partial(update.new_call, whole_graph=self._cuda_graph),
            rows,
            capture=self._cuda_graph and not own and self._obstacle is None,
        )
        self._loops[rows, self._scratch.generation] = loop
        return loop

    def _drop_loops(self) -> None:
        with ExitStack() as stack:
            for loop in self._loops.values():
                stack.callback(loop.close)
            self._loops.clear()

    def _name_the_call(
        self, loop: EngineLoop, plan: Plan, latents: Floats, times: Floats, moving: NDArray[np.bool_]
    ) -> None:
        """Run again, looking at each call, and raise :class:`NonFiniteError`."""
        bad: list[int] = []

        def look(k: int, latents: Floats) -> None:
            if not bad and not np.isfinite(latents).all():
                bad.append(k)

        loop.run(plan, latents, times, moving, lambda done: None, look)
        if bad:
            raise step_failed(self.precision, bad[0], len(plan))
        raise failed_once(self.precision)


def _fill(array: Floats, rows: int) -> Floats:
    """``array`` with its last row repeated until it has ``rows``."""
    return array if len(array) == rows else np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
