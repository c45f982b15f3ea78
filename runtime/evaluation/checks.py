"""What every metric asks of its arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import RequestError
from ..modalities import get

Array = NDArray[Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def image_pair(key: str, found: ArrayLike, truth: ArrayLike, valid: ArrayLike | None) -> tuple[Array, Array, Mask]:
    """Both images (rows, bands, H, W) of modality ``key``, and their mask in the same shape.

    Raises :class:`RequestError` for a modality without pixels, no rows, shapes that differ, a wrong number of bands, or
    a mask that :func:`mask_like` refuses.
    """
    a, b = image(key, found), image(key, truth)
    if a.shape != b.shape:
        raise RequestError(f"{key}: found images of shape {a.shape}, expected {b.shape} as the truth; resample first")
    return a, b, mask_like(key, b.shape, valid)


def image(key: str, values: ArrayLike) -> Array:
    """Numbers (rows, bands, H, W) of image modality ``key``; :class:`RequestError` for any other shape or type."""
    m, array = get(key), np.asarray(values)
    if not m.is_image:
        raise RequestError(
            f"{key}: it has no pixels; expected an image modality, place and date have their own metrics"
        )
    if array.ndim != 4 or array.shape[1] != len(m.bands) or array.size == 0 or array.dtype.kind not in "iufb":
        raise RequestError(
            f"{key}: found {array.dtype} of shape {array.shape}, expected numbers (rows, {len(m.bands)}, H, W)"
        )
    return array


def mask_like(name: str, shape: tuple[int, ...], valid: ArrayLike | None) -> Mask:
    """``valid`` spread to ``shape``, or all True for None.

    Raises :class:`RequestError` where it is not boolean, has another number of axes, or does not fit.
    """
    if valid is None:
        return np.ones(shape, bool)
    mask = np.asarray(valid)
    fits = mask.ndim == len(shape) and all(n in (1, m) for n, m in zip(mask.shape, shape, strict=True))
    if mask.dtype != bool or not fits:
        raise RequestError(
            f"{name}: found a mask {mask.dtype} of shape {mask.shape}, expected bool of {shape}, any axis possibly 1"
        )
    return np.broadcast_to(mask, shape)


def finite(name: str, arrays: Iterable[Array], valid: Mask) -> None:
    """Raises :class:`RequestError` where an array has NaN or infinity at a valid place."""
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array[valid]).all():
            raise RequestError(f"{name}: found NaN or infinity at a valid place; mask or fill those places first")


def rows_of(name: str, values: ArrayLike, columns: int | None = None) -> Floats:
    """Finite float64 (rows, ``columns``), or any number of columns for None, with at least one row.

    Raises :class:`RequestError` for anything else.
    """
    array = np.asarray(values)
    wrong = array.ndim != 2 or array.size == 0 or (columns is not None and array.shape[1] != columns)
    if wrong or array.dtype.kind not in "iuf":
        raise RequestError(
            f"{name}: found {array.dtype} of shape {array.shape}, expected numbers"
            f" (rows, {columns or 'columns'}), a row or more"
        )
    if not np.isfinite(array).all():
        raise RequestError(f"{name}: found NaN or infinity; leave those rows out of both sets first")
    return array.astype(np.float64)
