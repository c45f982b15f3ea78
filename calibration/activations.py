"""What goes through a component in half precision: statistics of every such tensor over recorded inputs.

The float32 graph runs under ONNX Runtime on the CPU with those tensors as further outputs, a part of them at a time, so
that memory stays bounded. Absolute values are counted in bins of an eighth of an octave (the exponent and three bits of
the mantissa of a float32), which add up over rows: a percentile is the upper edge of its bin, at most 12.5 % too high.
Maxima and shares are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..export.half_plan import HALF_MAX
from ..runtime.errors import NonFiniteError
from .half_tensors import HalfTensor, Norm, find_half_tensors
from .tap import Tapped

LIMIT = 1e4
"""Absolute value beyond which a tensor is not trusted to half: a head-room of 6.5 to :data:`HALF_MAX` for inputs that
were not recorded."""

HALF_NORMAL = 2.0**-14
"""Below this a float16 is subnormal and loses bits."""

HALF_TINY = 2.0**-25
"""Below this a float16 is zero."""

PERCENTILES = (50.0, 99.0, 99.9, 99.99)

_MANTISSA_BITS = 3
_SHIFT = 23 - _MANTISSA_BITS
_BINS = 1 << (8 + _MANTISSA_BITS)
_ANGLE_ERROR = 0.01
"""Radians by which a sine of the timestep embedding may be off."""

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TensorStatistics:
    """Absolute values of a tensor over all rows: ``percentiles`` are those of :data:`PERCENTILES`, ``large`` the share
    beyond :data:`LIMIT`, ``subnormal`` that below :data:`HALF_NORMAL` without zeros, ``vanishing`` the part of it that
    half makes zero."""

    tensor: HalfTensor
    maximum: float
    percentiles: tuple[float, ...]
    large: float
    subnormal: float
    vanishing: float

    @property
    def head_room(self) -> float:
        """How many times the maximum goes into the largest half."""
        return HALF_MAX / self.maximum if self.maximum else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self.tensor), "maximum": self.maximum, "percentiles": list(self.percentiles)} | {
            "large": self.large,
            "subnormal": self.subnormal,
            "vanishing": self.vanishing,
        }


@dataclass(frozen=True)
class Island:
    """A float32 island of the fp16 export, and whether these inputs need it.

    ``figure`` is, of a normalisation, the largest sum of squares about the mean that it adds up, which half holds up to
    :data:`HALF_MAX`; of the timestep embedding (``kind`` ``timesteps``), the rounding error in radians that the largest
    angle would have in half, which may be 0.01.
    """

    kind: str
    module: str
    figure: float
    needed: bool


@dataclass(frozen=True)
class ComponentStatistics:
    """What was measured of one component over ``rows`` rows of inputs."""

    component: str
    rows: int
    tensors: tuple[TensorStatistics, ...]
    islands: tuple[Island, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "component": self.component,
            "rows": self.rows,
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "islands": [asdict(island) for island in self.islands],
        }


class Histogram:
    """Absolute values counted in bins of an eighth of an octave, however many arrays they come in."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.maximum = 0.0
        self.beyond = 0

    def add(self, values: Floats) -> None:
        """Count ``values``, of any shape; a NaN or infinity makes :attr:`maximum` NaN or infinite."""
        flat = np.ascontiguousarray(values).reshape(-1)
        # Shifting out the sign and the low bits of the mantissa leaves the number of the bin.
        bins = (flat.view(np.uint32) << np.uint32(1)) >> np.uint32(_SHIFT + 1)
        self.counts += np.bincount(bins, minlength=_BINS)
        largest = float(np.abs(flat).max(initial=0.0))
        if np.isfinite(self.maximum):
            # max() would drop a NaN that comes second.
            self.maximum = max(self.maximum, largest) if np.isfinite(largest) else largest
        if largest > LIMIT:
            self.beyond += int(np.count_nonzero(np.abs(flat) > LIMIT))

    def statistics(self, tensor: HalfTensor) -> TensorStatistics:
        """The statistics of what was counted."""
        total = max(int(self.counts.sum()), 1)
        ranks = [np.ceil(percentile / 100 * total) for percentile in PERCENTILES]
        bins = np.searchsorted(np.cumsum(self.counts), ranks)
        return TensorStatistics(
            tensor,
            self.maximum,
            tuple(min(_edge(int(b) + 1), self.maximum) for b in bins),
            self.beyond / total,
            int(self.counts[1 : _bin(HALF_NORMAL)].sum()) / total,
            int(self.counts[1 : _bin(HALF_TINY)].sum()) / total,
        )


def measure(
    component: str,
    path: Path,
    rows: Sequence[Mapping[str, Floats]],
    progress: Progress = lambda what, done, total: None,
) -> ComponentStatistics:
    """Statistics of the float32 graph of ``component`` in ``path`` over ``rows`` of its inputs, each with a batch of 1.

    Raises :class:`~copgen_edge.runtime.errors.NonFiniteError` where a tensor is NaN or infinite even in float32.
    """
    model = onnx.load(path, load_external_data=False)
    found = find_half_tensors(model)
    by_name = {tensor.name: tensor for tensor in found.tensors}
    histograms = {tensor.name: Histogram() for tensor in found.tensors}
    squares = dict.fromkeys(found.norms, 0.0)
    angle = 0.0
    tapped = Tapped(path, list(found.elements), found.elements)
    for index, row in enumerate(rows):
        for name, values in tapped.run(row):
            if name in histograms:
                histograms[name].add(values)
                _require_finite(component, by_name[name], histograms[name].maximum)
            for norm in found.norms:
                if norm.name == name:
                    squares[norm] = max(squares[norm], _sum_of_squares(values, norm))
            if name in found.angles:
                angle = max(angle, float(np.abs(values).max()))
        progress(f"measure {component}", index + 1, len(rows))
    del tapped
    tensors = tuple(histograms[tensor.name].statistics(tensor) for tensor in found.tensors)
    islands = [Island("norm", norm.module, figure, figure > HALF_MAX) for norm, figure in squares.items()]
    if found.angles:
        error = float(np.spacing(np.float16(min(angle, HALF_MAX)))) / 2
        islands.append(Island("timesteps", "", error, error > _ANGLE_ERROR))
    return ComponentStatistics(component, len(rows), tensors, tuple(islands))


def _require_finite(component: str, tensor: HalfTensor, maximum: float) -> None:
    if not np.isfinite(maximum):
        raise NonFiniteError(
            f"{component}: {tensor.op} in {tensor.module} gave {maximum} in float32 already; no precision helps, look "
            "at the weights and at what was recorded"
        )


def _sum_of_squares(values: Floats, norm: Norm) -> float:
    """The largest sum of squares about the mean over the last axes of ``values``."""
    grouped = values.reshape(*values.shape[: values.ndim - norm.axes], -1)
    return float(grouped.var(axis=-1, dtype=np.float64).max() * grouped.shape[-1])


def _bin(value: float) -> int:
    """The bin that ``value``, not negative, is in."""
    return int(np.float32(value).view(np.uint32) >> np.uint32(_SHIFT))


def _edge(index: int) -> float:
    """The lower edge of a bin."""
    return float(np.uint32(index << _SHIFT).view(np.float32))
