"""Paired drift: what a second run of the same noise and conditions has become, against the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from ..modalities import get
from ..parity import Figures, compare
from .codes import CodeScores, code_scores
from .regression import BandErrors, regression
from .scalars import DateErrors, PlaceErrors, date_errors, place_errors

PhysicalErrors = dict[str, BandErrors] | CodeScores | PlaceErrors | DateErrors
"""By band for images, or the scores of codes, place and date."""


@dataclass(frozen=True)
class ModelDrift:
    """Figures of each modality, and of all of them joined in one vector."""

    joint: Figures
    modalities: dict[str, Figures]


def model_drift(found: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike]) -> ModelDrift:
    """How far latents, or arrays in model space, are from a baseline's: relative L2 = |found - baseline| / |baseline|
    over all rows, with largest error, cosine and 99.9th percentile (:class:`~..parity.Figures`).

    Both map modality keys to arrays of equal shapes, whose rows share their noise. NaN or infinity gives infinite
    errors. Raises :class:`RequestError` where keys or shapes differ.
    """
    _same_keys(found, baseline)
    a = {key: np.asarray(value, np.float64) for key, value in found.items()}
    b = {key: np.asarray(baseline[key], np.float64) for key in a}
    for key in a:
        if a[key].shape != b[key].shape or a[key].size == 0:
            raise RequestError(
                f"{key}: found shape {a[key].shape} against {b[key].shape}, expected the same; generate both runs alike"
            )
    joint = compare(*(np.concatenate([run[key].ravel() for key in a]) for run in (a, b)))
    return ModelDrift(joint, {key: compare(a[key], b[key]) for key in a})


def physical_errors(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> PhysicalErrors:
    """Errors of modality ``key`` in its own terms: :func:`~.regression.regression`, :func:`~.codes.code_scores`,
    :func:`~.scalars.place_errors` or :func:`~.scalars.date_errors`, with their shapes, units and errors raised.

    ``valid`` is for images only: :class:`RequestError` with place and date.
    """
    m = get(key)
    if m.is_codes:
        return code_scores(key, found, truth, valid)
    if m.is_image:
        return regression(key, found, truth, valid)
    if valid is not None:
        raise RequestError(f"{key}: found a mask for a {m.kind}, expected none; leave invalid rows out of both arrays")
    return place_errors(found, truth) if m.kind == "place" else date_errors(found, truth)


def physical_drift(
    found: Mapping[str, ArrayLike],
    baseline: Mapping[str, ArrayLike],
    valid: Mapping[str, ArrayLike] | None = None,
) -> dict[str, PhysicalErrors]:
    """:func:`physical_errors` of each modality, the baseline being the truth.

    Both map modality keys to physical arrays whose rows share their noise; ``valid`` maps some of the keys to masks.
    Raises :class:`RequestError` where keys differ, for a mask of no modality, or as :func:`physical_errors` does.
    """
    _same_keys(found, baseline)
    masks = valid or {}
    stray = sorted(set(masks) - set(found))
    if stray:
        raise RequestError(f"drift: found masks for {stray}, expected them among {sorted(found)}; drop those masks")
    return {key: physical_errors(key, found[key], baseline[key], masks.get(key)) for key in found}


def _same_keys(found: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike]) -> None:
    if set(found) != set(baseline) or not found:
        raise RequestError(
            f"drift: found {sorted(found)} against {sorted(baseline)}, expected the same keys; generate both alike"
        )
