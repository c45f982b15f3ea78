"""Does a bundle compute here what its reference computed? Per component, and for a short run as a whole.

The reference is either what the bundle carries (outputs of the fp32 PyTorch reference for inputs made from a seed), so
that a machine without PyTorch can check itself, or another backend that runs beside it on fresh inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import Backend
from .bundle import Bundle, FileRecord
from .components import STEP
from .errors import BundleError
from .modalities import KEYS
from .parity import PROBE_SEED, RUN_STEPS, Figures, compare, probe_inputs, worst
from .pipeline import Pipeline

LIVE_ROWS = (1, 3)
"""Batch sizes of a comparison with a running reference."""

RUN = "run"
"""Name of the check of a whole short run: every modality from noise, in :data:`RUN_STEPS` network calls."""

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Check:
    """One comparison: ``component`` (or ``run``) in ``precision`` against ``reference`` (``stored`` or ``live``)."""

    component: str
    precision: str
    backend: str
    reference: str
    rows: int
    figures: Figures
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the relative L2 error is within the tolerance."""
        return self.figures.relative_l2 <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "component": self.component,
            "precision": self.precision,
            "backend": self.backend,
            "reference": self.reference,
            "rows": self.rows,
            **self.figures.to_dict(),
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


def check_bundle(
    bundle: Bundle, backend: Backend, *, reference: Backend | None = None, seed: int | None = None
) -> Iterator[Check]:
    """Checks of every component of ``bundle`` on ``backend``, then of a short run where the network is there.

    Without ``reference`` the outputs carried by the bundle are compared; with it, both run on inputs made from ``seed``
    in batches of :data:`LIVE_ROWS`. Each component is released before the next, so one at a time is in memory. Raises
    :class:`BundleError` for damaged files.
    """
    for name in bundle.manifest.components:
        yield from check_component(bundle, backend, name, reference=reference, seed=seed)
    if STEP in bundle.manifest.components:
        yield check_run(bundle, backend, reference=reference, seed=seed)


def check_files(bundle: Bundle) -> int:
    """How many files the manifest names, after size and SHA-256 of each were found right; else :class:`BundleError`."""
    records = [component.reference for component in bundle.manifest.components.values()]
    for component in bundle.manifest.components.values():
        for variant in component.precisions.values():
            records.extend(variant.files)
    if bundle.manifest.reference_run is not None:
        records.append(FileRecord(**bundle.manifest.reference_run["file"]))
    for record in records:
        bundle.checked(record)
    return len(records)


def check_component(
    bundle: Bundle, backend: Backend, name: str, *, reference: Backend | None = None, seed: int | None = None
) -> Iterator[Check]:
    """The checks of one component, as :func:`check_bundle` makes them."""
    tolerance = bundle.variant(name, backend.precision).tolerance
    if reference is None:
        expected = _stored(bundle, bundle.component(name).reference)
        found = backend.run(name, probe_inputs(name, 1, PROBE_SEED))
        yield Check(name, backend.precision, backend.name, "stored", 1, _figures(found, expected), tolerance)
    else:
        for rows in LIVE_ROWS:
            inputs = probe_inputs(name, rows, PROBE_SEED + 1 if seed is None else seed)
            expected = reference.run(name, inputs)
            found = backend.run(name, inputs)
            yield Check(name, backend.precision, backend.name, "live", rows, _figures(found, expected), tolerance)
        reference.release(name)
    backend.release(name)


def short_run(bundle: Bundle, backend: Backend, *, seed: int, steps: int = RUN_STEPS) -> Arrays:
    """Latents of every modality from noise in ``steps`` network calls of the bundle's solver."""
    return Pipeline(bundle, backend, low_memory=True).denoise({}, KEYS, steps=steps, seed=seed)


def check_run(bundle: Bundle, backend: Backend, *, reference: Backend | None = None, seed: int | None = None) -> Check:
    """The check of a short run, as :func:`check_bundle` makes it."""
    record = bundle.manifest.reference_run
    if record is None:
        raise BundleError(f"{bundle.root} has a network but no reference run; export it again")
    tolerance = float(record["tolerance"][backend.precision])
    steps = record["steps"]
    if reference is None:
        seed = record["seed"]
        expected = _stored(bundle, FileRecord(**record["file"]))
    else:
        seed = PROBE_SEED + 1 if seed is None else seed
        expected = short_run(bundle, reference, seed=seed, steps=steps)
    figures = _figures(short_run(bundle, backend, seed=seed, steps=steps), expected)
    kind = "stored" if reference is None else "live"
    return Check(RUN, backend.precision, backend.name, kind, 1, figures, tolerance)


def _figures(found: Arrays, expected: Arrays) -> Figures:
    return worst([compare(found[name], expected[name]) for name in expected])


def _stored(bundle: Bundle, record: FileRecord) -> Arrays:
    with np.load(bundle.checked(record)) as arrays:
        return {name: arrays[name] for name in arrays}


def summarise(checks: Sequence[Check]) -> dict[str, float | None]:
    """The worst figures of several checks of one component, as the manifest records them."""
    return worst([check.figures for check in checks]).to_dict()
