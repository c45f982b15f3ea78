"""Errors of images in physical units, and their similarity on the scale of the target.

Physical units of metrics are DN for Sentinel-2 (reflectance x 10000), dB for Sentinel-1, metres for elevation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from ..modalities import get
from .checks import Array, Floats, Mask, finite, image_pair
from .extra import library

_UNITS = {"reflectance": "DN", "backscatter": "dB", "elevation": "m"}

SIGMA = 1.5
"""Standard deviation of SSIM's Gaussian window, in pixels (Wang et al. 2004)."""

WINDOW = 11
"""Side of SSIM's window, in pixels (Wang et al. 2004)."""


@dataclass(frozen=True)
class BandErrors:
    """Errors of one band over ``pixels`` valid pixels of all rows, in the units of :func:`metric_units`; the bias is
    found minus truth. All three are NaN where no pixel is valid."""

    mae: float
    rmse: float
    bias: float
    pixels: int


@dataclass(frozen=True)
class Similarity:
    """SSIM and PSNR (dB) of one band: means over ``images`` rows, those whose target has a range.

    A constant target has no range to scale by: its row is left out, and with no row left both are NaN. A perfect row
    has a PSNR of infinity, and so has then the mean. SSIM is NaN too where no row has one whole window of valid pixels.
    """

    ssim: float
    psnr: float
    images: int


def metric_units(key: str) -> str:
    """The units in which the errors of modality ``key`` are told: ``"DN"``, ``"dB"`` or ``"m"``.

    Raises :class:`RequestError` for a modality that has no such units: class codes, place, date.
    """
    m = get(key)
    if m.kind not in _UNITS:
        raise RequestError(
            f"{key}: it is a {m.kind} modality and has no regression errors; use the metrics for {m.kind}"
        )
    return _UNITS[m.kind]


def to_metric_units(key: str, physical: ArrayLike) -> Floats:
    """``physical`` values of modality ``key`` in :func:`metric_units`, float64, in the same shape.

    Linear power becomes 10 log10(power), floored at the least power that the model can express (-55.79 dB), so that
    zeros and negatives of the product count as they do for the model. NaN stays NaN. Raises :class:`RequestError` as
    :func:`metric_units` does.
    """
    units = metric_units(key)
    values = np.asarray(physical, np.float64)
    if units != "dB":
        return values
    return 10 * np.log10(np.maximum(values, get(key).constants["floor"]))


def regression(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> dict[str, BandErrors]:
    """Mean absolute error, root mean square error and bias of each band of modality ``key``.

    ``found`` and ``truth`` are (rows, bands, H, W) in the physical units of the transforms (DN, linear power,
    metres); ``valid`` is boolean (rows, bands, H, W), any axis possibly 1. Radar is compared in dB. All rows are
    pooled: the RMSE is the root of the mean over every valid pixel, not the mean of the rows' roots. Raises
    :class:`RequestError` for wrong shapes, another kind of modality, or NaN and infinity at valid pixels.
    """
    metric_units(key)
    a, b, mask = _pair(key, found, truth, valid)
    return {band: _errors(a[:, i][mask[:, i]] - b[:, i][mask[:, i]]) for i, band in enumerate(get(key).bands)}


def similarity(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> dict[str, Similarity]:
    """SSIM and PSNR of each band of modality ``key``, row by row and then averaged.

    Shapes, units and errors raised as for :func:`regression`, and :class:`RequestError` for images less than 11
    pixels a side. Each image is scaled so that its target's valid pixels span [0, 1]; what is found is scaled alike
    and not clipped. PSNR = 10 log10(1 / MSE). SSIM is Wang et al.'s (2004, "Image quality assessment: from error
    visibility to structural similarity"): Gaussian window of 11 pixels and sigma 1.5, K1 0.01, K2 0.03, averaged
    over the windows that lie in the image and have valid pixels only. Raises :class:`BackendError` without
    scikit-image.
    """
    metric_units(key)
    a, b, mask = _pair(key, found, truth, valid)
    if min(b.shape[2:]) < WINDOW:
        raise RequestError(
            f"{key}: found images of {b.shape[2]} x {b.shape[3]} pixels, SSIM needs {WINDOW} a side; give larger ones"
        )
    result = {}
    for i, band in enumerate(get(key).bands):
        pairs = [_similar(a[row, i], b[row, i], mask[row, i]) for row in range(len(b))]
        kept = [pair for pair in pairs if pair is not None]
        windowed = [ssim for ssim, _ in kept if not np.isnan(ssim)]
        result[band] = Similarity(
            float(np.mean(windowed)) if windowed else np.nan,
            float(np.mean([psnr for _, psnr in kept])) if kept else np.nan,
            len(kept),
        )
    return result


def _pair(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None) -> tuple[Floats, Floats, Mask]:
    a, b, mask = image_pair(key, found, truth, valid)
    finite(key, (a, b), mask)
    return to_metric_units(key, a), to_metric_units(key, b), mask


def _errors(error: Floats) -> BandErrors:
    if error.size == 0:
        return BandErrors(np.nan, np.nan, np.nan, 0)
    return BandErrors(
        float(np.abs(error).mean()), float(np.sqrt(np.square(error).mean())), float(error.mean()), error.size
    )


def _similar(found: Array, truth: Array, valid: Mask) -> tuple[float, float] | None:
    """(SSIM, PSNR) of one band of one row, or None where the target has no range."""
    pixels = truth[valid]
    if pixels.size == 0 or pixels.max() == pixels.min():
        return None
    low, span = pixels.min(), pixels.max() - pixels.min()
    # Any finite value serves where nothing is valid: those windows are not counted.
    a, b = (np.where(valid, (values - low) / span, 0.0) for values in (found, truth))
    metrics = library("skimage.metrics")
    with np.errstate(divide="ignore"):
        psnr = float(metrics.peak_signal_noise_ratio(b[valid], a[valid], data_range=1.0))
    _, field = metrics.structural_similarity(
        b, a, data_range=1.0, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False, full=True
    )
    edge = WINDOW // 2
    whole = np.lib.stride_tricks.sliding_window_view(valid, (WINDOW, WINDOW)).all(axis=(-2, -1))
    inner = field[edge:-edge, edge:-edge][whole]
    return (float(inner.mean()) if inner.size else np.nan), psnr
