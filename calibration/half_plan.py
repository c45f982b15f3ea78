"""Which units of which components must stay in float32 for the rest to be safe in half, from measured activations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.components import COMPONENTS
from ..runtime.errors import CalibrationError
from ..runtime.folders import whole_file
from .activations import LIMIT, ComponentStatistics, Progress, TensorStatistics, measure
from .trajectories import Trajectories
from .units import unit_of

SCHEMA_VERSION = 1
PLAN = "calibration/half_plan.json"
"""Where a bundle has its plan."""

ROWS = 32
"""Rows of inputs of each component that are looked at, spread evenly over all that were recorded."""

LEAST = 3
"""Tensors with the least head-room that a plan names of each component."""


@dataclass(frozen=True)
class HalfPlan:
    """``units``: of each component that was measured, the units that stay in float32, none for most.

    ``trajectories`` is the digest of what was measured, ``source`` the SHA-256 of the checkpoint's files by path, and
    ``measured`` has the figures of each component, for people and reports.
    """

    units: Mapping[str, tuple[str, ...]]
    trajectories: str
    source: Mapping[str, str]
    measured: Mapping[str, Any]

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """The units of the components that have any."""
        return {component: units for component, units in self.units.items() if units}

    def to_json(self) -> str:
        """The text of the plan's file; equal plans give equal text."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "limit": LIMIT,
            "trajectories": self.trajectories,
            "source": dict(self.source),
            "units": {component: list(units) for component, units in self.units.items()},
            "measured": dict(self.measured),
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


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

    Raises :class:`CalibrationError` where they have none in common, :class:`~copgen_edge.runtime.errors.BundleError`
    where a component is not there in fp32.
    """
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
    )


def write_half_plan(bundle: Bundle, plan: HalfPlan) -> Path:
    """Put ``plan`` in its place in the bundle, whole or not at all; its path. The manifest stays as it is."""
    path = bundle.root / PLAN
    with whole_file(path) as partial:
        partial.write_text(plan.to_json(), encoding="utf-8")
    return path


def read_half_plan(source: str | Path) -> HalfPlan:
    """The plan in the file ``source``, or in the bundle ``source``; :class:`CalibrationError` where there is none."""
    path = Path(source)
    path = path / PLAN if path.is_dir() else path
    if not path.is_file():
        raise CalibrationError(f"{path} is not there; make a plan with 'copgen-edge calibrate halves'")
    try:
        return _read(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CalibrationError(f"{path} is no plan ({what}); make one with 'copgen-edge calibrate halves'") from None


def _figures(statistics: ComponentStatistics) -> dict[str, Any]:
    return {
        "rows": statistics.rows,
        "least_head_room": [{**one.to_dict(), "head_room": one.head_room} for one in least_head_room(statistics)],
        "norms_needed": sorted({i.module for i in statistics.islands if i.kind == "norm" and i.needed}),
        "norms": sum(i.kind == "norm" for i in statistics.islands),
        "timesteps_needed": any(i.kind == "timesteps" and i.needed for i in statistics.islands),
    }


def _read(content: Any) -> HalfPlan:
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {content['schema_version']!r}, this program reads {SCHEMA_VERSION}")
    units: dict[str, tuple[str, ...]] = {}
    for component, names in content["units"].items():
        if component not in COMPONENTS:
            raise ValueError(f"unknown component {component!r}")
        if not isinstance(names, list) or not all(isinstance(n, str) and unit_of(n) == n for n in names):
            raise ValueError(f"units {names!r} of {component}")
        units[component] = tuple(names)
    return HalfPlan(units, str(content["trajectories"]), dict(content["source"]), dict(content["measured"]))
