"""What a result was made with: the same words in its metadata, in its rasters' tags, and for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .bundle import sha256
from .pipeline import Pipeline
from .solver import Plan
from .weights import words_for

GivenFiles = Mapping[str, tuple[str, Sequence[Path]]]
"""Condition by key -> how it was given, NAME=VALUE, and the files that were read for it."""


def describe_run(
    pipeline: Pipeline, plan: Plan, seed: int, conditions: GivenFiles, notes: Sequence[str]
) -> dict[str, Any]:
    """Model, bundle, backend, solver, seed, and conditions with the SHA-256 of their files: plain JSON."""
    bundle = pipeline.bundle
    return {
        "copgen_edge": version("copgen-edge"),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": dict(bundle.manifest.model),
        "bundle": {"path": str(bundle.root), "manifest_sha256": bundle.digest, "source": bundle.manifest.source},
        "backend": pipeline.backend.describe(),
        "solver": plan.solver,
        "steps": len(plan),
        "seed": seed,
        "conditions": {
            key: {"given_as": given, "files": [{"path": str(path), "sha256": sha256(path)} for path in files]}
            for key, (given, files) in conditions.items()
        },
        "notes": [*weights_notes(pipeline), *notes],
    }


def raster_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What every raster of a run carries, from :func:`describe_run`'s dictionary."""
    return {
        "COPGEN_EDGE": provenance["copgen_edge"],
        "COPGEN_MODEL": provenance["model"].get("variant", "custom"),
        "COPGEN_WEIGHTS": provenance["model"]["weights"],
        "COPGEN_BUNDLE_SHA256": provenance["bundle"]["manifest_sha256"],
        "COPGEN_BACKEND": f"{provenance['backend']['backend']} {provenance['backend']['precision']}",
        "COPGEN_SOLVER": f"{provenance['solver']} {provenance['steps']}",
        "COPGEN_SEED": str(provenance["seed"]),
        "COPGEN_CONDITIONS": " ".join(provenance["conditions"]),
    }


def engine_notes(pipeline: Pipeline) -> list[str]:
    """What runs the model, and what its weights are worth, for the user."""
    runs = pipeline.backend.describe()
    notes = [f"backend: {runs['backend']} on {runs['device']}, {runs['precision']} ({runs['reason']})"]
    return [*notes, *weights_notes(pipeline)]


def weights_notes(pipeline: Pipeline) -> list[str]:
    """A warning where the weights are not the authors'."""
    note = words_for(pipeline.bundle.manifest.model["weights"]).note
    return [note] if note else []


def days(dates: NDArray[Any]) -> list[str]:
    """Rows (rows, 3) of year, month and day as YYYY-MM-DD."""
    return [f"{int(year):04d}-{int(month):02d}-{int(day):02d}" for year, month, day in dates]


def degrees(places: NDArray[Any]) -> list[dict[str, float]]:
    """Rows (rows, 2) of latitude and longitude by name, to the decimetre."""
    return [{"lat": round(float(lat), 6), "lon": round(float(lon), 6)} for lat, lon in places]
