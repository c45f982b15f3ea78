"""The plan of what stays in float32 in an fp16 export: written by calibration, read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.components import COMPONENTS
from ..runtime.errors import CalibrationError
from .units import unit_of

SCHEMA_VERSION = 1
PLAN = "calibration/half_plan.json"
"""Where a bundle has its plan."""

HALF_MAX = 65504.0
"""The largest float16."""


@dataclass(frozen=True)
class HalfPlan:
    """``units``: of each component that was measured, the units that stay in float32, none for most.

    ``trajectories`` is the digest of what was measured, ``source`` the SHA-256 of the checkpoint's files by path, and
    ``measured`` has the figures of each component, for people and reports; ``limit`` is what no half may pass in it.
    """

    units: Mapping[str, tuple[str, ...]]
    trajectories: str
    source: Mapping[str, str]
    measured: Mapping[str, Any]
    limit: float

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """The units of the components that have any."""
        return {component: units for component, units in self.units.items() if units}

    def to_json(self) -> str:
        """The text of the plan's file; equal plans give equal text."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "limit": self.limit,
            "trajectories": self.trajectories,
            "source": dict(self.source),
            "units": {component: list(units) for component, units in self.units.items()},
            "measured": dict(self.measured),
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


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
    return HalfPlan(
        units, str(content["trajectories"]), dict(content["source"]), dict(content["measured"]), float(content["limit"])
    )
