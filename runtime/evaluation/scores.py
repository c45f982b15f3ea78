"""A run against the truth: errors in physical units, calibration of the samples, and the stochastic benchmark.

Each score comes beside that of *climatology*, the obvious guess that looks at no condition: the other patches of the
truth, as many of them as there are samples. Intervals of 95 % are over patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..modalities import FAMILIES, get
from .bootstrap import interval
from .codes import code_scores
from .ensemble import crps, over_samples, spread_skill
from .regression import metric_units, regression, similarity, to_metric_units
from .results import plain
from .runs import Run
from .scalars import date_errors, day_distance, haversine_km, place_errors
from .spectra import NEIGHBOURS, spectral_bands, spectral_benchmark, spectral_vectors
from .truth import Truth

Array = NDArray[Any]


def score(run: Run, truth: Truth) -> dict[str, Any]:
    """All scores of ``run`` against ``truth``, as JSON can hold them: ``modalities`` by key, ``spectra`` by family.

    Raises :class:`RequestError` where the truth lacks all of what was drawn; what it lacks in part is left out and
    listed under ``without_truth``.
    """
    known = [key for key in run.outputs if key in truth.physical]
    if not known:
        raise RequestError(f"the truth has none of {', '.join(run.outputs)}; ask for what it has with --generate")
    found = {
        "patches": len(truth),
        "samples": run.samples,
        "modalities": {key: _modality(key, run.physical[key], truth.physical[key]) for key in known},
        "spectra": _spectra({key: run.physical[key] for key in known}, truth),
        "without_truth": [key for key in run.outputs if key not in known],
    }
    return plain(found)


def climatology(truth: Array, samples: int) -> Array:
    """For each of the N rows of ``truth`` (N, ...) up to ``samples`` other rows, spread evenly over them: (N, S, ...).

    Raises :class:`RequestError` for fewer than three rows, of which no ensemble of two can be made.
    """
    rows = len(truth)
    if rows < 3:
        raise RequestError(f"found {rows} patches, expected 3 or more: climatology is made of the others")
    count = min(samples, rows - 1)
    steps = 1 + np.arange(count) * (rows - 1) // count
    return truth[(np.arange(rows)[:, None] + steps) % rows]


def _modality(key: str, drawn: Array, truth: Array) -> dict[str, Any]:
    m = get(key)
    measure = _codes if m.is_codes else _image if m.is_image else _place if m.kind == "place" else _date
    scores = measure(key, drawn, truth)
    if len(truth) >= 3:
        others = climatology(truth, drawn.shape[1])
        # Of a guess no likeness is told, and SSIM is what takes long.
        guess = _image_errors(key, others, truth)[0] if measure is _image else measure(key, others, truth)
        scores["climatology"] = {name: guess[name] for name in guess if name in _COMPARED}
    return scores


_COMPARED = ("mae", "crps", "best_mae", "top1", "mean_iou", "best_top1", "mean_km", "median_km", "mean_days")


def _image(key: str, drawn: Array, truth: Array) -> dict[str, Any]:
    """What :func:`_image_errors` tells, and of a band SSIM and PSNR, over all samples and of the best of each patch."""
    scores, best = _image_errors(key, drawn, truth)
    alike = similarity(key, *_paired(drawn, truth))
    best_alike = similarity(key, best, truth)
    for band, entry in scores["bands"].items():
        entry |= {"ssim": alike[band].ssim, "psnr": alike[band].psnr}
        entry |= {"best_ssim": best_alike[band].ssim, "best_psnr": best_alike[band].psnr}
    return scores


def _image_errors(key: str, drawn: Array, truth: Array) -> tuple[dict[str, Any], Array]:
    """Of a band: ``mae``, ``rmse`` and ``bias`` over all samples; ``best_*`` of the sample of each patch with the least
    MAE over bands; CRPS; spread, skill and their ratio. Of all bands: means and intervals. And those best samples."""
    m = get(key)
    rows, samples = drawn.shape[:2]
    errors = regression(key, *_paired(drawn, truth))
    values, target = to_metric_units(key, drawn), to_metric_units(key, truth)

    def mae(sample: Array, right: Array) -> float:
        return float(np.abs(sample - right).mean())

    by_patch = [over_samples(mae, values[n], target[n]) for n in range(rows)]
    best = np.stack([drawn[n, by_patch[n].best_index or 0] for n in range(rows)])
    best_errors = regression(key, best, truth)
    bands: dict[str, dict[str, Any]] = {}
    for i, band in enumerate(m.bands):
        entry: dict[str, Any] = {name: getattr(errors[band], name) for name in ("mae", "rmse", "bias")}
        entry |= {"best_mae": best_errors[band].mae, "best_rmse": best_errors[band].rmse}
        members = values[:, :, i].swapaxes(0, 1)
        entry["crps"] = float(crps(members, target[:, i], fair=samples > 1).mean())
        if samples > 1:
            calibration = spread_skill(members, target[:, i])
            entry |= {"spread": calibration.spread, "skill": calibration.skill, "spread_skill": calibration.ratio}
        bands[band] = entry
    means = {name: float(np.mean([entry[name] for entry in bands.values()])) for name in ("mae", "best_mae", "crps")}
    scores = {
        "units": metric_units(key),
        **means,
        "mae_interval": _interval([one.mean for one in by_patch]),
        "best_mae_interval": _interval([one.best for one in by_patch]),
        "bands": bands,
    }
    return scores, best


def _codes(key: str, drawn: Array, truth: Array) -> dict[str, Any]:
    rows = len(drawn)
    scores = code_scores(key, *_paired(drawn, truth))

    def top1(sample: Array, right: Array) -> float:
        return float((sample == right).mean())

    by_patch = [over_samples(top1, drawn[n], truth[n], higher_is_better=True) for n in range(rows)]
    best = code_scores(key, np.stack([drawn[n, by_patch[n].best_index or 0] for n in range(rows)]), truth)
    names = get(key).codes
    return {
        "top1": scores.top1,
        "top1_interval": _interval([one.mean for one in by_patch]),
        "mean_iou": scores.mean_iou,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "mean_f1": scores.mean_f1,
        "best_top1": best.top1,
        "best_mean_iou": best.mean_iou,
        "classes": {
            names[code]: {"iou": scores.iou[code], "f1": scores.f1[code], "share": scores.frequency[code]}
            for code in scores.iou
        },
    }


def _place(key: str, drawn: Array, truth: Array) -> dict[str, Any]:
    rows, samples = drawn.shape[:2]
    errors = place_errors(*_paired(drawn, truth))
    km = haversine_km(*_paired(drawn, truth)).reshape(rows, samples)
    return plain(errors) | {"best_km": float(km.min(axis=1).mean()), "mean_km_interval": _interval(km.mean(axis=1))}


def _date(key: str, drawn: Array, truth: Array) -> dict[str, Any]:
    rows, samples = drawn.shape[:2]
    days = day_distance(*_paired(drawn, truth)).reshape(rows, samples)
    return plain(date_errors(*_paired(drawn, truth))) | {
        "best_days": float(days.min(axis=1).mean()),
        "mean_days_interval": _interval(days.mean(axis=1)),
    }


def _paired(drawn: Array, truth: Array) -> tuple[Array, Array]:
    """All samples (N * S, ...) of ``drawn`` (N, S, ...), each beside its row of ``truth`` (N, ...)."""
    rows, samples = drawn.shape[:2]
    return drawn.reshape(rows * samples, *drawn.shape[2:]), np.repeat(truth, samples, axis=0)


def _interval(values: Any) -> list[float] | None:
    return list(interval(_mean, values)) if len(values) > 1 else None


def _mean(values: Array) -> float:
    return float(np.mean(values))


def image_families(keys: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Families all of whose keys are among ``keys`` and have bands to take means of."""
    return {
        family: members
        for family, members in FAMILIES.items()
        if all(key in keys and get(key).is_image and not get(key).is_codes for key in members)
    }


def vectors(images: Mapping[str, Array], keys: tuple[str, ...]) -> NDArray[np.float64]:
    """Spectral vectors of ``images`` (N, S, C, H, W) of ``keys``, (N, S, bands)."""
    rows, samples = images[keys[0]].shape[:2]
    flat = {key: images[key].reshape(rows * samples, *images[key].shape[2:]) for key in keys}
    return spectral_vectors(flat).reshape(rows, samples, -1)


def _spectra(drawn: Mapping[str, Array], truth: Truth) -> dict[str, Any]:
    """The benchmark of each whole family: patch by patch where the truth has draws enough, and else pooled."""
    found: dict[str, Any] = {}
    for family, keys in image_families(drawn).items():
        generated = vectors(drawn, keys)
        rows, samples = generated.shape[:2]
        entry: dict[str, Any] = {"bands": spectral_bands(keys), "k": NEIGHBOURS}
        if truth.draws is not None and samples > NEIGHBOURS and all(key in truth.draws for key in keys):
            real = vectors(truth.draws, keys)
            if real.shape[1] > NEIGHBOURS:
                each = [plain(spectral_benchmark(real[n], generated[n])) for n in range(rows)]
                found[family] = entry | {"sets": f"{real.shape[1]} real and {samples} drawn a patch", **_averaged(each)}
                continue
        if rows <= NEIGHBOURS:
            continue
        real = vectors({key: truth.physical[key][:, None] for key in keys}, keys)[:, 0]
        pooled = plain(spectral_benchmark(real, generated.reshape(rows * samples, -1)))
        found[family] = entry | {"sets": f"{rows} real and {rows * samples} drawn, all patches together", **pooled}
    return found


def _averaged(each: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in each[0]:
        values = np.array([one[name] for one in each], np.float64)
        known = ~np.isnan(values)
        # NaN where no patch has a value, for which nanmean would warn.
        with np.errstate(invalid="ignore"):
            found[name] = (np.nansum(values, axis=0) / known.sum(axis=0)).tolist()
        if values.ndim == 1 and len(each) > 1:
            found[f"{name}_interval"] = _interval(values[known])
    return found
