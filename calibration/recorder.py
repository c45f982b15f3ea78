"""A backend that keeps what the network is given, and the rows of what all components are given in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends import Arrays, Backend
from ..runtime.backends.host_loop import denoise_on_host
from ..runtime.components import COMPONENTS, STEP
from ..runtime.errors import CalibrationError
from ..runtime.schedule import TRAIN_STEPS
from ..runtime.solver import Plan
from .strata import Calls
from .trajectories import Entry

Floats = NDArray[np.float32]


class Rows:
    """What components were given in one run; of components that are not ``kept`` nothing."""

    def __init__(self, kept: Mapping[str, int]) -> None:
        self._kept = kept
        self._found: dict[str, dict[tuple[int, int], tuple[float | None, dict[str, NDArray[Any]]]]] = {}

    def add(
        self, component: str, sample: int, inputs: Arrays, call: int | None = None, timestep: float | None = None
    ) -> None:
        """Keep the one row of ``inputs`` of ``component``, in half precision but for the timesteps.

        Raises :class:`CalibrationError` where half precision cannot hold it.
        """
        if component in self._kept:
            small = {name: _half(component, name, array) for name, array in inputs.items()}
            self._found.setdefault(component, {})[call or 0, sample] = timestep, small

    def stacked(self) -> tuple[tuple[Entry, ...], dict[str, NDArray[Any]]]:
        """The entries and the tensors ``COMPONENT/INPUT``, by call and then by sample."""
        entries, tensors = [], {}
        for component in COMPONENTS:
            found = sorted(self._found.get(component, {}).items(), key=lambda item: item[0])
            for row, ((call, sample), (timestep, _)) in enumerate(found):
                entries.append(Entry(component, row, sample, call if component == STEP else None, timestep))
            for name in found[0][1][1] if found else ():
                tensors[f"{component}/{name}"] = np.concatenate([inputs[name] for _, (_, inputs) in found])
        return tuple(entries), tensors


class Recorder:
    """The backend ``inner``, whose network's inputs are kept at the calls that :meth:`begin` names."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.precision, self.reason = inner.name, inner.precision, inner.reason
        self._calls: Calls = frozenset()
        self._rows = Rows({})
        self._first_sample = self._call = 0
        self._times: Floats = np.empty(0, np.float32)

    def begin(self, calls: Calls, components: Mapping[str, int]) -> Rows:
        """Forget the run before this one; the rows of the next, of ``components`` alone."""
        self._calls, self._rows, self._first_sample = calls, Rows(components), 0
        return self._rows

    def check(self, component: str) -> None:
        self._inner.check(component)

    def load(self, component: str) -> None:
        self._inner.load(component)

    def release(self, component: str) -> None:
        self._inner.release(component)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def run(self, component: str, inputs: Arrays) -> dict[str, Floats]:
        if component == STEP:
            for row in range(len(inputs["latents"])):
                sample = self._first_sample + row
                if (self._call, sample) in self._calls:
                    one = {name: array[row : row + 1] for name, array in inputs.items()}
                    self._rows.add(STEP, sample, one, self._call, float(self._times[self._call]))
            self._call += 1
        return self._inner.run(component, inputs)

    def denoise(
        self, plan: Plan, latents: Floats, times: Floats, moving: NDArray[np.bool_], report: Callable[[int], None]
    ) -> Floats:
        """On the host, whatever ``inner`` would do, so that each call comes by."""
        self._call, self._times = 0, (plan.times * TRAIN_STEPS).astype(np.float32)
        latents = denoise_on_host(self, plan, latents, times, moving, report)
        self._first_sample += len(latents)
        return latents


def _half(component: str, name: str, array: NDArray[np.generic]) -> NDArray[Any]:
    if name == "timesteps":
        return np.array(array, np.float32)
    most = float(np.abs(np.asarray(array, np.float32)).max())
    if not most <= float(np.finfo(np.float16).max):
        raise CalibrationError(
            f"{component} is given {name} up to {most:.3g} in float32, and half precision, which trajectories are kept "
            "in, ends at 65504; check the bundle with 'copgen-edge verify', and the data"
        )
    return np.asarray(array).astype(np.float16)
