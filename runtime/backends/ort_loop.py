"""The denoising loop on ONNX Runtime's device: latents go up once, come down once, and stay there in between.

Two sets of state take turns: the network reads one, the update reads it and writes the other. Every tensor keeps its
address for as long as its number of rows is kept, which is what a CUDA graph asks for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..components import STEP
from ..errors import BackendError, one_line
from ..modalities import JOINT_SIZE, KEYS
from ..solver import Plan
from .host_loop import failed_once, step_failed
from .update import COEFFICIENTS, STATE, coefficient_rows

Floats = NDArray[np.float32]

MAX_ROW_COUNTS = 4
"""Numbers of rows whose tensors are kept: a run has two, its batch and what is left over at the end."""

_GRAPH_ID = "gpu_graph_id"


def without_graph(ort: Any) -> Any:
    """Options of a run that neither captures a CUDA graph nor replays one, for a session that could."""
    return _run_options(ort, -1)


def _run_options(ort: Any, graph: int) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, str(graph))
    return options


@dataclass(frozen=True)
class _Rows:
    """Tensors of one number of rows and, for each of the two states, what is bound to it."""

    states: tuple[Mapping[str, Any], Mapping[str, Any]]
    timesteps: Any
    steps: tuple[Any, Any]
    updates: tuple[Any, Any]
    graphs: tuple[int, ...]
    options: tuple[Any, ...]


class BoundLoop:
    """A network and the update as sessions of ONNX Runtime on ``device``, ``cpu`` or ``cuda``.

    With ``cuda_graph`` the network's session was made to capture CUDA graphs; each number of rows gets its own two.
    ``precision`` is for messages.
    """

    def __init__(
        self, ort: Any, step_session: Any, update_session: Any, device: str, cuda_graph: bool, precision: str
    ) -> None:
        self._ort = ort
        self._step = step_session
        self._update = update_session
        self._device = device
        self._cuda_graph = cuda_graph
        self._precision = precision
        self._rows: OrderedDict[int, _Rows] = OrderedDict()
        # A graph holds the addresses of its capture, so the number of one that was given up is never used again.
        self._graph_ids = count(1)
        with self._engine_errors():
            self._moving = self._tensor(JOINT_SIZE)
            self._coefficients = self._tensor(COEFFICIENTS)

    def denoise(
        self,
        plan: Plan,
        latents: Floats,
        times: Floats,
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> Floats:
        """What :meth:`Backend.denoise` promises.

        Nothing comes back between the calls, so NaN is seen at the end; the run is then made again, and watched, to
        name the step. Raises :class:`BackendError` where the engine fails.
        """
        end = self._run(plan, latents, times, moving, report)
        if np.isfinite(end[:, moving]).all():
            return end
        self._run(plan, latents, times, moving, lambda done: None, watch=True)
        raise failed_once(self._precision)

    def _run(
        self,
        plan: Plan,
        latents: Floats,
        times: Floats,
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
        *,
        watch: bool = False,
    ) -> Floats:
        timesteps = np.repeat(times[:, None], len(latents), axis=1)
        coefficients = coefficient_rows(plan)
        with self._engine_errors():
            rows = self._rows_of(len(latents))
            self._moving.update_inplace(moving.astype(np.float32))
            rows.states[0]["latents"].update_inplace(latents)
            for name in ("anchor", "last", "before"):
                rows.states[0][name].update_inplace(np.zeros_like(latents))
        for k in range(len(plan)):
            now = k % 2
            with self._engine_errors():
                rows.timesteps.update_inplace(timesteps[k])
                self._coefficients.update_inplace(coefficients[k])
                self._step.run_with_iobinding(rows.steps[now], rows.options[now])
                self._update.run_with_iobinding(rows.updates[now])
            # NaN in a noise that moves is NaN in the latents, whatever its weight.
            if watch and not np.isfinite(self._read(rows.states[1 - now]["latents"])[:, moving]).all():
                raise step_failed(self._precision, k, len(plan))
            report(k + 1)
        return self._read(rows.states[len(plan) % 2]["latents"])

    def _rows_of(self, number: int) -> _Rows:
        if number not in self._rows:
            while len(self._rows) >= MAX_ROW_COUNTS:
                self._give_up(self._rows.popitem(last=False)[1])
            self._rows[number] = self._bind(number)
        self._rows.move_to_end(number)
        return self._rows[number]

    def _bind(self, number: int) -> _Rows:
        first, second = ({name: self._tensor(number, JOINT_SIZE) for name in STATE} for _ in range(2))
        noise, timesteps = self._tensor(number, JOINT_SIZE), self._tensor(number, len(KEYS))
        graphs = (next(self._graph_ids), next(self._graph_ids)) if self._cuda_graph else ()

        def step(state: Mapping[str, Any]) -> Any:
            return _binding(self._step, {"latents": state["latents"], "timesteps": timesteps}, {"noise": noise})

        def update(state: Mapping[str, Any], following: Mapping[str, Any]) -> Any:
            shared = {"noise": noise, "moving": self._moving, "coefficients": self._coefficients}
            outputs = {f"next_{name}": tensor for name, tensor in following.items()}
            return _binding(self._update, {**state, **shared}, outputs)

        return _Rows(
            states=(first, second),
            timesteps=timesteps,
            steps=(step(first), step(second)),
            updates=(update(first, second), update(second, first)),
            graphs=graphs,
            options=tuple(_run_options(self._ort, graph) for graph in graphs) or (None, None),
        )

    def _give_up(self, rows: _Rows) -> None:
        # Older releases keep a captured graph until the session goes; it is never replayed.
        release = getattr(self._step, "release_captured_graph", None)
        for graph in rows.graphs:
            if release is not None:
                release(graph)

    def _tensor(self, *shape: int) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, self._device)

    def _read(self, tensor: Any) -> Floats:
        with self._engine_errors():
            # On the CPU what is read shares the tensor's memory, which the next run overwrites.
            return tensor.numpy().copy()

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            advice = "; try --no-cuda-graph" if self._cuda_graph else ""
            raise BackendError(f"{STEP} failed in onnxruntime-{self._device}: {one_line(error)}{advice}") from error


def _binding(session: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_ortvalue_input(name, tensor)
    for name, tensor in outputs.items():
        binding.bind_ortvalue_output(name, tensor)
    return binding
