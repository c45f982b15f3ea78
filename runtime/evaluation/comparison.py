"""A run against a baseline run of the same noise: what changed in each sample, and what changed in distribution.

Beside every figure stands its *floor*: the same figure between two seeds of the baseline.
A distribution that drifts no further than its floor cannot be told from the baseline's own noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modalities import get
from .bootstrap import two_set_interval
from .drift import model_drift, physical_drift
from .results import plain
from .runs import Run, comparable
from .scores import image_families, vectors
from .spectra import (
    NEIGHBOURS,
    mean_known,
    mmd2,
    nn_accuracy,
    precision_recall,
    range_coverage,
    spectral_bands,
    wasserstein,
)

Floats = NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]

_LEAST_PATCHES = 4
_LEAST_VECTORS = {"recall": NEIGHBOURS + 1, "precision": NEIGHBOURS + 1, "nn_accuracy": 2, "mmd2": 2}


def _pooled(values: Floats) -> Floats:
    return values.reshape(-1, values.shape[-1])


def _recall(baseline: Floats, found: Floats) -> float:
    return precision_recall(_pooled(baseline), _pooled(found))[1]


def _precision(baseline: Floats, found: Floats) -> float:
    return precision_recall(_pooled(baseline), _pooled(found))[0]


def _coverage(baseline: Floats, found: Floats) -> float:
    return mean_known(range_coverage(_pooled(baseline), _pooled(found)))


_METRICS: dict[str, tuple[Metric, tuple[float, float]]] = {
    "recall": (_recall, (0.0, 1.0)),
    "precision": (_precision, (0.0, 1.0)),
    "nn_accuracy": (lambda baseline, found: nn_accuracy(_pooled(baseline), _pooled(found)), (0.0, 1.0)),
    "mmd2": (lambda baseline, found: mmd2(_pooled(baseline), _pooled(found)), (-np.inf, np.inf)),
    "wasserstein_mean": (
        lambda baseline, found: float(wasserstein(_pooled(baseline), _pooled(found)).mean()),
        (0.0, np.inf),
    ),
    "range_coverage": (_coverage, (0.0, 1.0)),
}


def compare_runs(run: Run, baseline: Run, seeds: tuple[Run, Run]) -> dict[str, Any]:
    """Drift of ``run`` against ``baseline``, which share their noise, as JSON can hold it.

    ``seeds`` are two runs of one model that differ in their seed alone, and give the floor.

    ``paired``: relative L2 of the latents, joint and by modality, and errors in physical units, the baseline being the
    truth. ``distribution``: by family the benchmark of spectral vectors over all patches together with intervals over
    patches, and by modality of codes the total variation of the class shares. Raises :class:`RequestError` where the
    runs were not asked for the same.
    """
    comparable(run, baseline)
    for other in seeds:
        comparable(run, other)
    return plain(
        {
            "paired": _paired(run, baseline),
            "paired_floor": _paired(*seeds),
            "distribution": _distribution(run, baseline),
            "distribution_floor": _distribution(*seeds),
        }
    )


def _paired(run: Run, baseline: Run) -> dict[str, Any]:
    ours, theirs = (
        {key: values.reshape(-1, *values.shape[2:]) for key, values in one.physical.items()} for one in (run, baseline)
    )
    drift = model_drift(run.latents, baseline.latents)
    return {
        "latents_relative_l2": drift.joint.relative_l2,
        "latents_by_modality": {key: figures.relative_l2 for key, figures in drift.modalities.items()},
        "physical": physical_drift(ours, theirs),
    }


def _distribution(run: Run, baseline: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family, keys in image_families(run.physical).items():
        a, b = vectors(baseline.physical, keys), vectors(run.physical, keys)
        halves = len(a) // 2 * run.samples
        entry: dict[str, Any] = {"bands": spectral_bands(keys), "wasserstein": wasserstein(_pooled(a), _pooled(b))}
        for name, (metric, bounds) in _METRICS.items():
            if len(a) * run.samples < _LEAST_VECTORS.get(name, 1):
                continue
            entry[name] = metric(a, b)
            if len(a) >= _LEAST_PATCHES and halves > NEIGHBOURS:
                entry[f"{name}_interval"] = two_set_interval(metric, a, b, bounds=bounds)
        found[family] = entry
    for key, codes in run.physical.items():
        if get(key).is_codes:
            shares = [
                np.array([(values == code).mean() for code in get(key).codes])
                for values in (codes, baseline.physical[key])
            ]
            found[get(key).family] = {"total_variation": float(np.abs(shares[0] - shares[1]).sum() / 2)}
    return found
