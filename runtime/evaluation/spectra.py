"""The paper's stochastic benchmark: two sets of spectral vectors, and how far their distributions differ.

A spectral vector is one image's mean per band; a set is (n, bands). The benchmark compares, cell by cell, the set of
the real acquisitions with the set of the generated ones, and averages over cells (COP-GEN, arXiv 2603.03239).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from ..modalities import get, resolve
from .checks import Floats, finite, image, mask_like, rows_of
from .extra import library
from .regression import metric_units, to_metric_units

NEIGHBOURS = 5
"""The k whose k-th neighbour is a ball's radius in the paper's benchmark."""


@dataclass(frozen=True)
class SpectralBenchmark:
    """All figures of one pair of sets; distances in the vectors' units (DN for Sentinel-2), the rest without units.

    ``wasserstein`` and ``range_coverage`` have one number a band; ``mean_range_coverage`` leaves out the bands that the
    real set has no range in.
    """

    recall: float
    precision: float
    nn_accuracy: float
    intra_real: float
    intra_generated: float
    mmd2: float
    wasserstein: tuple[float, ...]
    range_coverage: tuple[float, ...]
    mean_range_coverage: float


def spectral_bands(keys: list[str] | tuple[str, ...] | str) -> tuple[str, ...]:
    """Names ``FAMILY_BAND`` of a spectral vector's numbers, for modality keys or families: network order, then
    tensor order (S2L2A: B01, B09, B04, B03, B02, B08, B05, B06, B07, B8A, B11, B12). Raises :class:`RequestError`
    for an unknown name."""
    return tuple(f"{get(key).family}_{band}" for key in resolve(keys) for band in get(key).bands)


def spectral_vectors(images: Mapping[str, ArrayLike], valid: Mapping[str, ArrayLike] | None = None) -> Floats:
    """Mean of every band over its valid pixels, (rows, bands), in the order of :func:`spectral_bands`.

    ``images`` are (rows, bands, H, W) by modality key, physical units, each at its own resolution; the three of
    S2L2A give (rows, 12) in DN, and radar is averaged in dB. ``valid`` is boolean in the image's shape, any axis
    possibly 1; a key without one is valid throughout. Raises :class:`RequestError` for wrong shapes, rows that
    differ between keys, a mask for no image, NaN at a valid pixel, or a band of a row without any valid pixel.
    """
    masks = valid or {}
    stray = sorted(set(masks) - set(images))
    if stray or not images:
        raise RequestError(f"spectra: found masks {stray} for images {sorted(images)}, expected an image for each mask")
    means, rows = [], {}
    for key in resolve(list(images)):
        metric_units(key)
        array = image(key, images[key])
        mask = mask_like(key, array.shape, masks.get(key))
        finite(key, (array,), mask)
        counts = mask.sum(axis=(2, 3))
        if not counts.all():
            row, band = np.argwhere(counts == 0)[0].tolist()
            raise RequestError(f"{key}: found no valid pixel in row {row}, {get(key).bands[band]}; leave that row out")
        means.append(np.where(mask, to_metric_units(key, array), 0.0).sum(axis=(2, 3)) / counts)
        rows[key] = len(array)
    if len(set(rows.values())) > 1:
        raise RequestError(f"spectra: found {rows} rows, expected as many for every key; give the same rows for all")
    return np.concatenate(means, axis=1)


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = NEIGHBOURS) -> tuple[float, float]:
    """(precision, recall) of two sets (n, d) and (m, d), in 0..1.

    A set's region is the union of balls round its vectors, each reaching as far as its k-th neighbour in the set,
    itself not counted. Precision is the share of generated vectors in the real region, recall of real ones in the
    generated region (Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative
    models"). Raises :class:`RequestError` for wrong shapes, or where a set has not k + 1 vectors;
    :class:`BackendError` without scipy.
    """
    a, b = _sets(real, generated)
    if k < 1 or min(len(a), len(b)) <= k:
        raise RequestError(
            f"spectra: found {len(a)} real and {len(b)} generated vectors, expected {max(k, 1) + 1} or more of each for"
            f" k = {k}; draw more samples, or give a k from 1 to {max(min(len(a), len(b)) - 1, 1)}"
        )
    in_generated = (_distances(a, b) <= _radii(b, k)).any(axis=1)
    in_real = (_distances(b, a) <= _radii(a, k)).any(axis=1)
    return float(in_real.mean()), float(in_generated.mean())


def nn_accuracy(real: ArrayLike, generated: ArrayLike) -> float:
    """Leave-one-out accuracy of the 1-nearest-neighbour classifier of real against generated, (n, d) and (m, d).

    0.5 where the sets cannot be told apart, 1 where they are separate, 0 where each vector's nearest is its copy in the
    other set (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"). It is the mean of the two sets'
    accuracies, so that 0.5 holds for unequal sizes too; equally near neighbours share the vote. Raises
    :class:`RequestError` for wrong shapes or a set of fewer than 2; :class:`BackendError` without scipy.
    """
    a, b = _sets(real, generated, least=2)
    pooled = np.concatenate([a, b])
    is_real = np.arange(len(pooled)) < len(a)
    distances = _distances(pooled, pooled)
    np.fill_diagonal(distances, np.inf)
    nearest = distances == distances.min(axis=1, keepdims=True)
    alike = (nearest & (is_real[:, None] == is_real)).sum(axis=1) / nearest.sum(axis=1)
    return float((alike[is_real].mean() + alike[~is_real].mean()) / 2)


def intra_set_distance(vectors: ArrayLike) -> float:
    """Mean Euclidean distance over all pairs of one set (n, d), in its units: how diverse it is.

    Raises :class:`RequestError` for a wrong shape or fewer than 2 vectors; :class:`BackendError` without scipy.
    """
    a, _ = _sets(vectors, vectors, least=2)
    return float(library("scipy.spatial.distance").pdist(a).mean())


def mmd2(real: ArrayLike, generated: ArrayLike) -> float:
    """Squared maximum mean discrepancy of two sets (n, d) and (m, d), unbiased: about 0, and possibly below, for the
    same distribution (Gretton et al. 2012, "A kernel two-sample test", eq. 3).

    The kernel is exp(-|x - y|^2 / (2 sigma^2)), sigma half the median distance over the pairs of the pooled sets.
    NaN where that median is 0. Raises :class:`RequestError` for wrong shapes or a set of fewer than 2;
    :class:`BackendError` without scipy.
    """
    a, b = _sets(real, generated, least=2)
    n, m = len(a), len(b)
    distances = _distances(pooled := np.concatenate([a, b]), pooled)
    sigma = np.median(distances[np.triu_indices(n + m, 1)]) / 2
    if sigma == 0:
        return float("nan")
    kernel = np.exp(-np.square(distances) / (2 * sigma**2))
    # The diagonal is a vector with itself, and 1: without it the estimate is unbiased.
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


def wasserstein(real: ArrayLike, generated: ArrayLike) -> Floats:
    """Wasserstein-1 distance of each band's two empirical distributions, (d,), in the vectors' units.

    It is the area between both distribution functions (Vallender 1974). Raises :class:`RequestError` for wrong shapes;
    :class:`BackendError` without scipy.
    """
    a, b = _sets(real, generated)
    distance = library("scipy.stats").wasserstein_distance
    return np.array([distance(a[:, i], b[:, i]) for i in range(a.shape[1])], np.float64)


def range_coverage(real: ArrayLike, generated: ArrayLike) -> Floats:
    """Share of each band's real [min, max] that the generated [min, max] overlaps, (d,), in 0..1 (COP-GEN,
    arXiv 2603.03239). NaN in a band where the real set has no range. Raises :class:`RequestError` for wrong shapes."""
    a, b = _sets(real, generated)
    length = a.max(axis=0) - a.min(axis=0)
    overlap = np.minimum(a.max(axis=0), b.max(axis=0)) - np.maximum(a.min(axis=0), b.min(axis=0))
    return np.divide(np.maximum(overlap, 0), length, out=np.full(length.shape, np.nan), where=length > 0)


def mean_known(values: Floats) -> float:
    """Mean of ``values`` (n,) that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def spectral_benchmark(real: ArrayLike, generated: ArrayLike, *, k: int = NEIGHBOURS) -> SpectralBenchmark:
    """Every figure of this module for one pair of sets (n, d) and (m, d); errors as each of them raises."""
    precision, recall = precision_recall(real, generated, k=k)
    coverage = range_coverage(real, generated)
    return SpectralBenchmark(
        recall=recall,
        precision=precision,
        nn_accuracy=nn_accuracy(real, generated),
        intra_real=intra_set_distance(real),
        intra_generated=intra_set_distance(generated),
        mmd2=mmd2(real, generated),
        wasserstein=tuple(wasserstein(real, generated).tolist()),
        range_coverage=tuple(coverage.tolist()),
        mean_range_coverage=mean_known(coverage),
    )


def _sets(real: ArrayLike, generated: ArrayLike, least: int = 1) -> tuple[Floats, Floats]:
    a = rows_of("spectra", real)
    b = rows_of("spectra", generated, a.shape[1])
    if min(len(a), len(b)) < least:
        raise RequestError(
            f"spectra: found {len(a)} and {len(b)} vectors, expected {least} or more in each set; draw more samples"
        )
    return a, b


def _distances(a: Floats, b: Floats) -> Floats:
    return np.asarray(library("scipy.spatial.distance").cdist(a, b))


def _radii(vectors: Floats, k: int) -> Floats:
    distances = _distances(vectors, vectors)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.partition(distances, k - 1, axis=1)[:, k - 1])
