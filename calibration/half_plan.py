"""Which units of which components must stay in float32 for the rest to be safe in half, from measured activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..export.half_plan import PLAN, HalfPlan
from ..runtime.bundle import Bundle
from ..runtime.errors import CalibrationError
from ..runtime.folders import whole_file
from .activations import LIMIT, ComponentStatistics, Progress, TensorStatistics, measure
from .trajectories import Trajectories

ROWS = 32
"""Rows of inputs of each component that are looked at, spread evenly over all that were recorded."""

LEAST = 3
"""Tensors with the least head-room that a plan names of each component."""


def float32_units(statistics: ComponentStatistics) -> tuple[str, ...]:
    """The units of a component that must stay in float32, in the order in which they run.

    A tensor beyond ``activations.LIMIT`` keeps the unit that makes it in float32, and those that take it, which would
    cast it to half as it enters. Raises :class:`CalibrationError` where such a tensor is in no unit.
    """
    kept: set[str] = set()
    for one in statistics.tensors:
        if one.maximum > LIMIT:
            if not one.tensor.unit:
                raise CalibrationError(
                    f"{statistics.component}: {one.tensor.op} {one.tensor.name!r} reaches {one.maximum:.3g}, beyond "
                    f"{LIMIT:g}, and is in no unit that could stay in float32; use this component in fp32"
                )
            kept |= {one.tensor.unit, *one.tensor.takers}
    order = [unit for one in statistics.tensors for unit in (one.tensor.unit, *one.tensor.takers)]
    return tuple(unit for unit in dict.fromkeys(order) if unit in kept)


def least_head_room(statistics: ComponentStatistics, count: int = LEAST) -> list[TensorStatistics]:
    """The ``count`` tensors of a component with the largest values, the largest first."""
    return sorted(statistics.tensors, key=lambda one: -one.maximum)[:count]


def measure_bundle(
    bundle: Bundle, trajectories: Trajectories, progress: Progress = lambda what, done, total: None
) -> Iterator[ComponentStatistics]:
    """Statistics of each component of ``bundle`` that ``trajectories`` has inputs of, from its fp32 graph.

    Raises :class:`CalibrationError` where they were recorded of another model or have none in common,
    :class:`~copgen_edge.runtime.errors.BundleError` where a component is not there in fp32.
    """
    trajectories.require_model_of(bundle)
    names = [name for name in bundle.manifest.components if trajectories.entries(name)]
    if not names:
        raise CalibrationError(
            f"{trajectories.root} has inputs of none of the components of {bundle.root}; record trajectories of this "
            "bundle"
        )
    for name in names:
        yield measure(name, bundle.onnx_path(name, "fp32"), list(trajectories.rows(name, ROWS)), progress)


def make_plan(bundle: Bundle, trajectories: Trajectories, measured: Sequence[ComponentStatistics]) -> HalfPlan:
    """The plan for ``bundle`` from what :func:`measure_bundle` gave."""
    return HalfPlan(
        {one.component: float32_units(one) for one in measured},
        trajectories.digest,
        {file["path"]: file["sha256"] for file in bundle.manifest.source["files"]},
        {one.component: _figures(one) for one in measured},
        LIMIT,
    )


def write_half_plan(bundle: Bundle, plan: HalfPlan) -> Path:
    """Put ``plan`` in its place in the bundle, whole or not at all; its path. The manifest stays as it is."""
    path = bundle.root / PLAN
    with whole_file(path) as partial:
        partial.write_text(plan.to_json(), encoding="utf-8")
    return path


def _figures(statistics: ComponentStatistics) -> dict[str, Any]:
    return {
        "rows": statistics.rows,
        "least_head_room": [{**one.to_dict(), "head_room": one.head_room} for one in least_head_room(statistics)],
        "norms_needed": sorted({i.module for i in statistics.islands if i.kind == "norm" and i.needed}),
        "norms": sum(i.kind == "norm" for i in statistics.islands),
        "timesteps_needed": any(i.kind == "timesteps" and i.needed for i in statistics.islands),
    }
