"""From ``NAME=VALUE`` to the file and the band number of every band that a modality needs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.io import DatasetReader

from ..errors import RasterError, RequestError
from ..modalities import FAMILIES, Modality, get, resolve

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".vrt"})
"""What counts as a raster in a folder, whatever the case."""

IN_MEMORY = "/vsimem/"
"""How the path of a raster begins that GDAL holds in memory."""

_L2A_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_L1C_ORDER = (*_L2A_ORDER[:10], "B10", *_L2A_ORDER[10:])

_UNNAMED_ORDER: Mapping[str, tuple[str, ...]] = {"S2L1C": _L1C_ORDER, "S2L2A": _L2A_ORDER, "S1RTC": ("vv", "vh")}
"""The bands of a file that names none, by family; it must have exactly as many."""

_S2_BAND = re.compile(r"B0?([1-9]|1[0-2]|8A)", re.IGNORECASE)


@dataclass(frozen=True)
class Scaling:
    """What stored values mean: ``gain`` * value + ``offset``, in DN for Sentinel-2, else in the modality's units.

    ``origin`` says where it was read, empty where nothing says it.
    """

    gain: float = 1.0
    offset: float = 0.0
    origin: str = ""


@dataclass(frozen=True)
class Band:
    """One band of a modality: ``index`` counts the bands of the file from 1.

    ``declared`` and ``nodata`` are what the product's own metadata, beside the file, say of it; None where they are
    silent and the file's own words hold.
    """

    name: str
    path: Path
    index: int
    declared: Scaling | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class Source:
    """Where the bands of one modality are, in tensor order. ``name`` is the modality as the user typed it."""

    key: str
    name: str
    bands: tuple[Band, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, without repeats."""
        return tuple(dict.fromkeys(band.path for band in self.bands))


def label(name: str, path: Path) -> str:
    """How messages call a file."""
    return f"{name}: {path.name}"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raises :class:`RasterError`, which calls the raster ``name``, where it fails to be opened or read inside."""
    try:
        yield
    except RasterioIOError as error:
        # A failed read tells why in the error that it comes from alone.
        told = error.__cause__ if "previous exception" in str(error) and error.__cause__ else error
        reason = " ".join(str(told).split()) or "no reason given"
        raise RasterError(
            f"{name} cannot be read as a raster ({reason}); expected GeoTIFF, COG, JPEG 2000 or VRT"
        ) from (error)


def open_dataset(path: Path, name: str) -> DatasetReader:
    """The raster, open until it is closed; :class:`RasterError`, which calls it ``name``, where it cannot be opened."""
    with reading(name), warnings.catch_warnings():
        # A raster without a georeference is refused by name, so the warning would say it twice.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


@contextmanager
def open_raster(path: Path, name: str) -> Iterator[DatasetReader]:
    """The open raster; :class:`RasterError` where it cannot be opened, or fails to be read while open.

    ``name`` is how the message calls it.
    """
    with open_dataset(path, name) as dataset, reading(name):
        yield dataset


def find_sources(
    values: Sequence[tuple[str, str]], bands: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sources of raster conditions, and what was guessed about them.

    ``values`` are (NAME, VALUE) pairs of image modalities; ``bands`` gives, by NAME as typed, the bands of a file in
    the file's own order. Bands are found by file name in a folder, else by the file's descriptions, else by their
    number where that says which they are.

    Raises :class:`RequestError` for a modality given twice or bands of a NAME that is not given, and
    :class:`RasterError` where a file or a band is missing or ambiguous.
    """
    require_named(bands, values)
    sources: list[Source] = []
    notes: list[str] = []
    owner: dict[str, str] = {}
    for name, value in values:
        for key in resolve([name]):
            if key in owner:
                raise RequestError(f"{key} is given twice, by {owner[key]} and by {name}; leave one out")
            owner[key] = name
            source, guessed = find_source(get(key), name, value, bands.get(name))
            sources.append(source)
            notes.extend(note for note in guessed if note not in notes)
    return tuple(sources), tuple(notes)


def require_named(bands: Mapping[str, tuple[str, ...]], values: Sequence[tuple[str, str]]) -> None:
    """Raise :class:`RequestError` for bands of a NAME that ``values``, (NAME, VALUE) pairs, do not give."""
    typed = {name for name, _ in values}
    for name in bands:
        if name not in typed:
            raise RequestError(f"--bands {name}: no condition of that name is given; have {', '.join(sorted(typed))}")


def find_source(
    modality: Modality, name: str, value: str, order: tuple[str, ...] | None
) -> tuple[Source, tuple[str, ...]]:
    """The source of one modality in one VALUE, and what was guessed about it.

    ``value`` is a raster, a folder of them, or a raster in memory (``/vsimem/...``); ``order`` names the bands of a
    file in its own order. Raises :class:`RasterError` where a file or a band is missing or ambiguous, and
    :class:`RequestError` for bands of a folder of several rasters.
    """
    path = Path(value)
    notes: tuple[str, ...] = ()
    try:
        if value.startswith(IN_MEMORY):
            found, notes = _in_file(path, modality, name, order)
            _require_all(modality, name, value, found)
            return Source(modality.key, name, tuple(found[band] for band in modality.bands)), notes
        if not value or not path.exists():
            raise RasterError(f"{name}: {value!r} does not exist; expected a raster or a folder of them")
        if not (path.is_file() or path.is_dir()):
            raise RasterError(
                f"{name}: {value!r} is neither a file nor a folder; expected a raster or a folder of them"
            )
        rasters = rasters_in(path) if path.is_dir() else None
    except OSError as error:
        raise RasterError(f"{name}: {value!r} cannot be opened ({error.strerror}); give another path") from error
    if rasters is not None:
        if not rasters:
            suffixes = ", ".join(sorted(RASTER_SUFFIXES))
            raise RasterError(f"{name}: folder {value!r} holds no raster; expected files ending in {suffixes}")
        if len(rasters) == 1:
            found, notes = _in_file(rasters[0], modality, name, order)
        elif order is not None:
            raise RequestError(f"--bands {name} orders the bands of one file, but {value!r} is a folder of several")
        else:
            found = _in_folder(rasters, modality, name)
    else:
        found, notes = _in_file(path, modality, name, order)
    _require_all(modality, name, value, found)
    return Source(modality.key, name, tuple(found[band] for band in modality.bands)), notes


def rasters_in(folder: Path) -> list[Path]:
    """The rasters that lie in ``folder`` itself, by name; :class:`OSError` where it cannot be listed."""
    return sorted(path for path in folder.iterdir() if _is_raster(path))


def _is_raster(path: Path) -> bool:
    return path.suffix.lower() in RASTER_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _require_all(modality: Modality, name: str, value: str, found: Mapping[str, Band]) -> None:
    missing = [band for band in modality.bands if band not in found]
    if not missing:
        return
    if len(modality.bands) == 1:
        raise RasterError(f"{name}: none of the rasters in {value!r} is named {missing[0]}; give the file itself")
    keys = FAMILIES[modality.family]
    advice = f"; give only the groups that it holds, by key: {', '.join(keys)}" if name not in keys else ""
    raise RasterError(f"{name}: {value!r} lacks {', '.join(missing)} of {', '.join(modality.bands)}{advice}")


def band_names(text: str, family: str) -> tuple[str, ...]:
    """Bands of ``family`` that a file name or a description names as a word of its own: B2, ``b02``, B02 for B02."""
    words = [_canonical(word) for word in re.split(r"[^0-9A-Za-z]+", text)]
    joined = "_".join(["", *words, ""]).lower()
    known = _L1C_ORDER if family.startswith("S2") else get(FAMILIES[family][0]).bands
    return tuple(band for band in known if f"_{band.lower()}_" in joined)


def _canonical(word: str) -> str:
    found = _S2_BAND.fullmatch(word)
    return f"B{found[1].upper():0>2}" if found else word


def _in_folder(rasters: Sequence[Path], modality: Modality, name: str) -> dict[str, Band]:
    candidates: dict[str, list[Band]] = {}
    unnamed: list[Path] = []
    for path in rasters:
        names = band_names(path.stem, modality.family)
        if len(names) == 1:
            candidates.setdefault(names[0], []).append(Band(names[0], path, 1))
        else:
            unnamed.append(path)
    if any(band not in candidates for band in modality.bands):
        for path in unnamed:
            for found in _described(path, modality, name).values():
                candidates.setdefault(found.name, []).append(found)
    chosen = {band: native(candidates[band], modality, name) for band in modality.bands if band in candidates}
    for band in chosen.values():
        if band.path not in unnamed:
            _require_one_band(band.path, name)
    return chosen


def _require_one_band(path: Path, name: str) -> None:
    with open_raster(path, label(name, path)) as dataset:
        count = len(_data_bands(dataset))
    if count != 1:
        raise RasterError(f"{label(name, path)} has {count} bands; a file named after a band has 1: give it by itself")


def native(candidates: Sequence[Band], modality: Modality, name: str) -> Band:
    """The one at the modality's own resolution, else the finest; :class:`RasterError` where two are."""
    if len(candidates) == 1:
        return candidates[0]
    sizes: list[float] = []
    for band in candidates:
        with open_raster(band.path, label(name, band.path)) as dataset:
            sizes.append(abs(dataset.transform.a))
    best = modality.resolution if modality.resolution in sizes else min(sizes)
    same = [band for band, size in zip(candidates, sizes, strict=True) if size == best]
    if len(same) > 1:
        names = ", ".join(band.path.name for band in same)
        raise RasterError(f"{name}: {len(same)} rasters could be {same[0].name}: {names}; keep one in the folder")
    return same[0]


def _data_bands(dataset: DatasetReader) -> list[int]:
    return [i for i, color in enumerate(dataset.colorinterp, start=1) if color != ColorInterp.alpha]


def _described(path: Path, modality: Modality, name: str) -> dict[str, Band]:
    """The bands that the file's own descriptions name."""
    found: dict[str, Band] = {}
    with open_raster(path, label(name, path)) as dataset:
        for index in _data_bands(dataset):
            for band in band_names(dataset.descriptions[index - 1] or "", modality.family):
                if band in found:
                    raise RasterError(
                        f"{label(name, path)} describes bands {found[band].index} and {index} as {band}; "
                        f"say which is which with --bands {name}=..."
                    )
                found[band] = Band(band, path, index)
    return found


def _in_file(
    path: Path, modality: Modality, name: str, order: tuple[str, ...] | None
) -> tuple[dict[str, Band], tuple[str, ...]]:
    with open_raster(path, label(name, path)) as dataset:
        indices = _data_bands(dataset)
    if order is not None:
        return _ordered(path, indices, modality, name, order), ()
    if modality.bands and len(modality.bands) == len(indices) == 1:
        return {modality.bands[0]: Band(modality.bands[0], path, indices[0])}, ()
    described = _described(path, modality, name)
    if described:
        return described, ()
    usual = _UNNAMED_ORDER.get(modality.family, ())
    if len(usual) != len(indices):
        count = f"{len(indices)} band{'s' * (len(indices) != 1)}"
        orelse = f", or exactly {', '.join(usual)}" if usual else ""
        raise RasterError(
            f"{label(name, path)} has {count}, of which no description names one; expected {', '.join(modality.bands)} "
            f"named there{orelse}: name every band of the file, in file order, with --bands {name}=NAME,NAME,..."
        )
    bands = {band: Band(band, path, index) for band, index in zip(usual, indices, strict=True)}
    return bands, (f"{label(name, path)} describes no band; taken as {', '.join(usual)} (--bands says otherwise)",)


def _ordered(
    path: Path, indices: Sequence[int], modality: Modality, name: str, order: tuple[str, ...]
) -> dict[str, Band]:
    if len(order) != len(indices):
        raise RasterError(
            f"--bands {name} names {len(order)} bands, but {path.name} has {len(indices)}; name each, in file order"
        )
    found: dict[str, Band] = {}
    for text, index in zip(order, indices, strict=True):
        for band in band_names(text, modality.family):
            if band in found:
                raise RequestError(f"--bands {name} names {band} twice; name each band once")
            found[band] = Band(band, path, index)
    return found
