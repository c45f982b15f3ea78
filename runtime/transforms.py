"""Physical units to model space and back.

Physical arrays are (rows, C, H, W) for images (digital numbers, linear power, metres), (rows, 1, H, W) integers for
class codes, (rows, 2) latitude and longitude in degrees for the place, (rows, 3) year, month, day for the date.
Model arrays are float32: (rows, channels, H, W) in [-1, 1] for images (codes one-hot), (rows, 1, 1, 3) for the scalars.
Source: COP-GEN (arXiv 2603.03239), appendix on preprocessing.
"""

from __future__ import annotations

from calendar import isleap
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import RequestError
from .modalities import Modality, get

Array = NDArray[Any]
Floats = NDArray[np.float32]


def to_model(key: str, physical: ArrayLike) -> Floats:
    """``physical`` units of modality ``key`` in model space, float32.

    Raises :class:`RequestError` for a wrong shape, NaN or infinity, a code outside the catalogue, a place off the
    globe, or a day that is not in the calendar. Radar power and elevation at or below zero become the model's floor.
    """
    m = get(key)
    values = np.asarray(physical)
    expected = _physical_shape(m)
    if values.ndim != len(expected) + 1 or values.shape[1:] != expected:
        raise RequestError(f"{key}: found an array of shape {values.shape}, expected {_rows_of(expected)}")
    if values.dtype.kind not in "iufb":
        raise RequestError(f"{key}: found values of type {values.dtype}, expected numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError(f"{key}: found NaN or infinity; fill or remove them first")
    return _FORWARD[m.kind](m, values)


def to_physical(key: str, model: ArrayLike) -> Array:
    """``model`` space values of modality ``key`` in physical units: float32 images, uint8 codes, float64 degrees,
    int64 (year, month, day).

    Raises :class:`RequestError` for a wrong shape, NaN or infinity: an argmax would make a class of them.
    """
    m = get(key)
    values = np.asarray(model, np.float32)
    expected = m.image_shape if m.is_image else m.latent_shape
    if values.ndim != 4 or values.shape[1:] != expected:
        raise RequestError(f"{key}: found an array of shape {values.shape}, expected {_rows_of(expected)}")
    return _checked_back(m, values)


def image_to_physical(key: str, model: ArrayLike) -> Array:
    """As :func:`to_physical`, for images (rows, channels, H, W) of any height and width: parts of a scene."""
    m = get(key)
    values = np.asarray(model, np.float32)
    if not m.is_image or values.ndim != 4 or values.shape[1] != m.channels:
        raise RequestError(f"{key}: found an array of shape {values.shape}, expected (rows, {m.channels}, H, W)")
    return _checked_back(m, values)


def _checked_back(m: Modality, values: Floats) -> Array:
    if not np.isfinite(values).all():
        raise RequestError(f"{m.key}: found NaN or infinity in model space; there is no physical value for it")
    return _BACK[m.kind](m, values)


def _rows_of(shape: tuple[int, ...]) -> str:
    return f"(rows, {', '.join(map(str, shape))})"


def _physical_shape(m: Modality) -> tuple[int, ...]:
    if m.is_image:
        return (len(m.bands), m.size, m.size)
    return (2,) if m.kind == "place" else (3,)


def _reflectance_to_model(m: Modality, dn: Array) -> Floats:
    return dn.astype(np.float32) / np.float32(m.constants["quantification"]) * 2 - 1


def _reflectance_back(m: Modality, v: Floats) -> Array:
    return (v + 1) / 2 * np.float32(m.constants["quantification"])


def _unit(v: Floats) -> Floats:
    return np.clip((v + 1) / 2, 0, 1)


def _backscatter_to_model(m: Modality, power: Array) -> Floats:
    c = m.constants
    db = 10 * np.log10(np.where(power <= 0, c["floor"], power.astype(np.float64)))
    return ((db - c["min_db"]) / (c["max_db"] - c["min_db"]) * 2 - 1).astype(np.float32)


def _backscatter_back(m: Modality, v: Floats) -> Array:
    c = m.constants
    db = _unit(v).astype(np.float64) * (c["max_db"] - c["min_db"]) + c["min_db"]
    return np.maximum(10 ** (db / 10), c["floor"]).astype(np.float32)


def _elevation_to_model(m: Modality, metres: Array) -> Floats:
    c = m.constants
    log = np.log1p(np.where(metres <= 0, c["floor"], metres.astype(np.float64)))
    return ((log - c["min_log"]) / (c["max_log"] - c["min_log"]) * 2 - 1).astype(np.float32)


def _elevation_back(m: Modality, v: Floats) -> Array:
    c = m.constants
    log = _unit(v).astype(np.float64) * (c["max_log"] - c["min_log"]) + c["min_log"]
    return np.expm1(log).astype(np.float32)


def _codes_to_model(m: Modality, codes: Array) -> Floats:
    known = np.array(sorted(m.codes))
    one_hot = codes == known[:, None, None]
    if not one_hot.any(axis=1).all():
        unknown = sorted(set(np.unique(codes).tolist()) - set(m.codes))
        raise RequestError(f"{m.key}: found codes {unknown[:8]}, expected only {sorted(m.codes)}; remap them first")
    return one_hot.astype(np.float32) * 2 - 1


def _codes_back(m: Modality, v: Floats) -> Array:
    return np.array(sorted(m.codes), np.uint8)[v.argmax(axis=1, keepdims=True)]


def _place_to_model(m: Modality, degrees: Array) -> Floats:
    lat, lon = np.radians(degrees.astype(np.float64)).T
    if (np.abs(degrees[:, 0]) > 90).any() or (np.abs(degrees[:, 1]) > 360).any():
        raise RequestError(
            f"{m.key}: found {degrees.tolist()[:2]}, expected latitude in -90..90 and longitude in degrees"
        )
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    return xyz.astype(np.float32).reshape(-1, 1, 1, 3)


def _place_back(_: Modality, v: Floats) -> Array:
    xyz = v.reshape(-1, 3).astype(np.float64)
    # Off the unit sphere the arcsine would be wrong; a zero vector has no direction and lands at latitude 0.
    xyz /= np.maximum(np.linalg.norm(xyz, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    lat = np.arcsin(np.clip(xyz[:, 2], -1, 1))
    return np.degrees(np.stack([lat, np.arctan2(xyz[:, 1], xyz[:, 0])], axis=-1))


def _days(year: int) -> int:
    return 366 if isleap(year) else 365


def _date_to_model(m: Modality, ymd: Array) -> Floats:
    rows = []
    for year, month, day in ymd.tolist():
        try:
            if (year, month, day) != (int(year), int(month), int(day)):
                raise ValueError
            turn = 2 * np.pi * date(int(year), int(month), int(day)).timetuple().tm_yday / _days(int(year))
        except (ValueError, OverflowError):
            raise RequestError(
                f"{m.key}: found {(year, month, day)}, expected year, month and day of a day in the calendar"
            ) from None
        rows.append((np.sin(turn), np.cos(turn), 2 * (year - 1950) / 100 - 1))
    return np.array(rows, np.float32).reshape(-1, 1, 1, 3)


def _date_back(_: Modality, v: Floats) -> Array:
    rows = []
    for sin, cos, scaled in v.reshape(-1, 3).astype(np.float64).tolist():
        year = int(np.clip(np.round((scaled + 1) * 50 + 1950), 1, 9999))
        turn = np.arctan2(sin, cos) / (2 * np.pi) % 1
        day = int(np.round(turn * _days(year))) or _days(year)
        found = date(year, 1, 1) + timedelta(days=day - 1)
        rows.append((found.year, found.month, found.day))
    return np.array(rows, np.int64).reshape(-1, 3)


_FORWARD = {
    "reflectance": _reflectance_to_model,
    "backscatter": _backscatter_to_model,
    "elevation": _elevation_to_model,
    "codes": _codes_to_model,
    "place": _place_to_model,
    "date": _date_to_model,
}
_BACK = {
    "reflectance": _reflectance_back,
    "backscatter": _backscatter_back,
    "elevation": _elevation_back,
    "codes": _codes_back,
    "place": _place_back,
    "date": _date_back,
}
