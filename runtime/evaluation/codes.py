"""Scores of class codes: land cover and cloud masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from ..modalities import get
from .checks import image_pair
from .extra import library


@dataclass(frozen=True)
class CodeScores:
    """Scores over ``pixels`` valid pixels of all rows.

    ``iou``, ``f1`` and ``frequency`` (the share of the truth's pixels) are keyed by class code and hold the classes
    that occur in the truth or in what was found; a class that is in neither has no score and is left out of every
    mean. With no valid pixel they are empty and all else is NaN.
    """

    top1: float
    mean_iou: float
    frequency_weighted_iou: float
    mean_f1: float
    iou: dict[int, float]
    f1: dict[int, float]
    frequency: dict[int, float]
    pixels: int


def code_scores(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> CodeScores:
    """Top-1 accuracy, IoU and F1 of each class, their means, and the frequency-weighted IoU of modality ``key``.

    ``found`` and ``truth`` are integer codes (rows, 1, H, W); ``valid`` is boolean in that shape, any axis possibly
    1. All rows are pooled in one confusion matrix. IoU = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN); the
    accuracy, the mean and the frequency-weighted IoU are those of Long, Shelhamer and Darrell (2015, "Fully
    convolutional networks for semantic segmentation"), the weights being the classes' shares of the truth. Raises
    :class:`RequestError` for wrong shapes, a modality that has no classes, or codes outside the catalogue;
    :class:`BackendError` without scikit-learn.
    """
    m = get(key)
    if not m.is_codes:
        raise RequestError(f"{key}: it is a {m.kind} modality and has no classes; use the metrics for {m.kind}")
    a, b, mask = image_pair(key, found, truth, valid)
    a, b = a[mask], b[mask]
    known = sorted(m.codes)
    unknown = sorted({*np.unique(a).tolist(), *np.unique(b).tolist()} - set(known))
    if unknown:
        raise RequestError(f"{key}: found codes {unknown[:8]}, expected only {known}; remap or mask them first")
    if b.size == 0:
        return CodeScores(np.nan, np.nan, np.nan, np.nan, {}, {}, {}, 0)
    matrix = library("sklearn.metrics").confusion_matrix(b.astype(np.int64), a.astype(np.int64), labels=known)
    hits, in_truth, in_found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [i for i in range(len(known)) if in_truth[i] + in_found[i]]
    iou = {known[i]: float(hits[i] / (in_truth[i] + in_found[i] - hits[i])) for i in rows}
    f1 = {known[i]: float(2 * hits[i] / (in_truth[i] + in_found[i])) for i in rows}
    frequency = {known[i]: float(in_truth[i] / b.size) for i in rows}
    return CodeScores(
        top1=float(hits.sum() / b.size),
        mean_iou=float(np.mean(list(iou.values()))),
        frequency_weighted_iou=sum(frequency[code] * iou[code] for code in iou),
        mean_f1=float(np.mean(list(f1.values()))),
        iou=iou,
        f1=f1,
        frequency=frequency,
        pixels=b.size,
    )
