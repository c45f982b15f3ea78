"""Whole runs again from what was recorded of their first call, with another network in some of the calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.components import STEP
from ..runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, get
from ..runtime.noise import latent_noise
from ..runtime.parity import compare
from ..runtime.schedule import TRAIN_STEPS
from ..runtime.solver import Plan, PlanState
from .ranges import BANDS, calls_of_bands
from .trajectories import RecordedRun, Trajectories

Floats = NDArray[np.float32]
_NUDGE = 0.01

Network = Callable[[Floats, Floats], Floats]
"""Noise (1, 26118) in latents (1, 26118) at timesteps (1, 12)."""


def network_of(session: Any) -> Network:
    """The network in a session of ONNX Runtime."""

    def noise(latents: Floats, timesteps: Floats) -> Floats:
        found: Floats = session.run(["noise"], {"latents": latents, "timesteps": timesteps})[0]
        return found

    return noise


@dataclass(frozen=True)
class Start:
    """Where a run begins: joint ``latents`` (1, 26118) with conditions and noise in them, and the ``roles`` of all
    modalities."""

    latents: Floats
    roles: Mapping[str, str]

    @property
    def generated(self) -> tuple[str, ...]:
        """Keys that the run draws, in network order."""
        return tuple(key for key in KEYS if self.roles[key] == "generated")

    @property
    def moving(self) -> NDArray[np.bool_]:
        """Which of the joint latents (26118,) the run changes."""
        moving = np.zeros(JOINT_SIZE, bool)
        for key in self.generated:
            moving[JOINT_SLICES[key]] = True
        return moving

    def times(self, plan: Plan) -> Floats:
        """Timesteps (calls, 12) of all modalities."""
        times = np.zeros((len(plan), len(KEYS)), np.float32)
        for column, key in enumerate(KEYS):
            role = self.roles[key]
            times[:, column] = plan.times * TRAIN_STEPS if role == "generated" else TRAIN_STEPS * (role == "absent")
        return times

    def reseeded(self, seed: int) -> Start:
        """The same run from other noise in what it draws: two draws of one model differ by this."""
        latents = self.latents.copy()
        for key in self.generated:
            latents[0, JOINT_SLICES[key]] = latent_noise(key, 1, seed=seed, purpose="initial").ravel()
        return replace(self, latents=latents)


def starts(trajectories: Trajectories, runs: Sequence[RecordedRun]) -> list[Start]:
    """The starts of all samples of ``runs``."""
    found = []
    for run in runs:
        first = [entry for entry in run.entries if entry.component == STEP and entry.call == 0]
        for row in trajectories.inputs(run, first)["latents"]:
            found.append(Start(row[None], run.roles))
    return found


class Replay:
    """The run of ``plan`` from ``start`` by ``network``, which is the reference; its states are kept where ``keep``
    says, so that another network can take over there."""

    def __init__(self, network: Network, start: Start, plan: Plan, keep: Sequence[int] = ()) -> None:
        self._network, self._start, self._plan = network, start, plan
        self._moving, self._times = start.moving, start.times(plan)
        self._kept: dict[int, PlanState] = {}
        state = PlanState.begin(start.latents[:, self._moving])
        self._kept[0] = _copy(state)
        for k in range(len(plan)):
            if k in keep:
                self._kept[k] = _copy(state)
            self._advance(state, network)
        self.end = state.x

    def with_calls(self, network: Network, first: int, last: int) -> Floats:
        """Where the run ends with ``network`` in the calls from ``first`` up to, not with, ``last``, and the reference
        in all others. ``first`` is 0 or one that was kept."""
        state = _copy(self._kept[first])
        for k in range(first, len(self._plan)):
            self._advance(state, network if k < last else self._network)
        return state.x

    def whole(self, network: Network) -> Floats:
        """Where the run ends with ``network`` in all calls."""
        return self.with_calls(network, 0, len(self._plan))

    def latents(self, end: Floats) -> dict[str, Floats]:
        """The scaled latents (1, C, h, w) of what was drawn, by key, of an ``end``."""
        joint = self._start.latents.copy()
        joint[:, self._moving] = end
        return {key: joint[:, JOINT_SLICES[key]].reshape(1, *get(key).latent_shape) for key in self._start.generated}

    def _advance(self, state: PlanState, network: Network) -> None:
        latents = self._start.latents.copy()
        latents[:, self._moving] = state.x
        noise = network(latents, self._times[state.done : state.done + 1])
        state.advance(self._plan, noise[:, self._moving])


def band_importance(network: Network, start: Start, plan: Plan) -> tuple[float, ...]:
    """What an error of the noise at the calls of each band (bands,) does to the end of a run from ``start``, in squares
    and relative to the largest: the noise that ``network`` finds is moved by :data:`_NUDGE` of its size there.

    The solver's arithmetic alone would tell another story: in a trained network later calls mend what early ones did.
    """
    calls = calls_of_bands(plan)
    replay = Replay(network, start, plan, [first for first, _ in calls.values()])
    rng = np.random.default_rng(0)

    def nudged(latents: Floats, timesteps: Floats) -> Floats:
        noise = network(latents, timesteps)
        size = _NUDGE * np.sqrt(np.mean(np.square(noise)))
        return noise + np.float32(size) * rng.standard_normal(noise.shape, np.float32)

    drifts = [
        relative([replay.with_calls(nudged, *calls[band])], [replay.end]) ** 2 if band in calls else 0.0
        for band in range(BANDS)
    ]
    return tuple(drift / max(drifts) if max(drifts) > 0 else 1.0 for drift in drifts)


def _copy(state: PlanState) -> PlanState:
    return PlanState(state.done, state.x, state.anchor, list(state.predictions))


def relative(found: Sequence[Floats], reference: Sequence[Floats]) -> float:
    """Relative L2 of several arrays together; infinite where one is not finite."""
    a, b = (np.concatenate([one.ravel() for one in arrays]) for arrays in (found, reference))
    return compare(a, b).relative_l2
