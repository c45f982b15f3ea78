"""Sentinel-2 products in ESA's SAFE format: band files, offsets, baseline and date, as the product's XML says.

Source: Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), issue 14.9, for the compact format (since
December 2016) and, from baseline 04.00 on, RADIO_ADD_OFFSET and BOA_ADD_OFFSET.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from xml.etree.ElementTree import Element

from ...errors import RasterError
from ...modalities import Modality, get
from ..radiometry import QUANTIFICATION
from ..sources import Band, Scaling, Source, band_names
from .documents import file_size, inside, read_xml
from .part import Date, Part, baseline_scaling, calendar_date

METADATA = {"S2L1C": "MTD_MSIL1C.xml", "S2L2A": "MTD_MSIL2A.xml"}

_SUFFIXES = (".jp2", ".tif")
"""What a product's images end in: its XML leaves it out. TIFF is what some tools write in their place."""

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""By the band_id of the XML."""


def is_safe(path: Path) -> bool:
    """Whether a path is a SAFE product, or the file in it that describes one."""
    if path.is_dir():
        return path.suffix.upper() == ".SAFE" or any((path / name).is_file() for name in METADATA.values())
    return path.name in (*METADATA.values(), "manifest.safe")


def read_safe(path: Path, name: str, keys: Sequence[str]) -> list[Part]:
    """The parts that a SAFE product holds of some modalities of one family, granule by granule.

    Raises :class:`RasterError` where it is a product of another family, its XML cannot be read, or a band file is
    missing, empty, or named outside the product.
    """
    family = get(keys[0]).family
    root = path if path.is_dir() else path.parent
    called = f"{name}: {root.name}"
    described = _described(root, path, called, family)
    xml = read_xml(described, f"{name}: {described.name}")
    baseline = _text(xml, "PROCESSING_BASELINE")
    scalings = _scalings(xml, called, baseline)
    date, dated_by = _date(xml)
    parts: list[Part] = []
    for images in _granules(xml, root, called):
        for key in keys:
            modality = get(key)
            bands = tuple(_band(band, images, modality, called, scalings[band]) for band in modality.bands)
            about = f"{root.name} ({family[:2]} {family[2:]}{f', baseline {baseline}' if baseline else ''})"
            parts.append(Part(Source(key, name, bands), about, date, f"{dated_by} of {root.name}", (described,)))
    return parts


def _described(root: Path, path: Path, called: str, family: str) -> Path:
    found = {of: root / name for of, name in METADATA.items() if (root / name).is_file()}
    if path.name in METADATA.values():
        found = {of: file for of, file in found.items() if file == path}
    if not found:
        raise RasterError(
            f"{called} has no {' or '.join(METADATA.values())}; expected a Sentinel-2 product of the compact format"
            f"{', or for S1RTC the GeoTIFFs of a terrain-corrected product' if family == 'S1RTC' else ''}: give the "
            "unpacked .SAFE folder that has one"
        )
    if family not in METADATA:
        raise RasterError(
            f"{called} is a Sentinel-2 product; expected a raster of {family}: give one, or name it S2..."
        )
    if family not in found:
        held = " and ".join(found)
        raise RasterError(
            f"{called} is a product of {held}, not of {family}; give it as {held}=..., or another product"
        )
    return found[family]


def _text(xml: Element, tag: str) -> str:
    found = xml.find(f".//{tag}")
    return (found.text or "").strip() if found is not None else ""


def _number(text: str, called: str, tag: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise RasterError(f"{called} has {tag} {text[:40]!r}; expected a number: download the product again")
    return number


def _date(xml: Element) -> tuple[Date | None, str]:
    for tag in ("PRODUCT_START_TIME", "DATATAKE_SENSING_START"):
        date = calendar_date(_text(xml, tag))
        if date is not None:
            return date, tag
    return None, ""


def _scalings(xml: Element, called: str, baseline: str) -> Mapping[str, Scaling]:
    """DN of every band, by its name."""
    level = "BOA_" if xml.find(".//BOA_QUANTIFICATION_VALUE") is not None else ""
    quantified = _text(xml, f"{level}QUANTIFICATION_VALUE")
    unit = _number(quantified, called, f"{level}QUANTIFICATION_VALUE") if quantified else QUANTIFICATION
    if unit <= 0:
        raise RasterError(
            f"{called} has a quantification value of {unit:g}; expected 10000: download the product again"
        )
    gain = QUANTIFICATION / unit
    names = {
        entry.get("bandId", ""): names[0]
        for entry in xml.iterfind(".//Spectral_Information")
        if len(names := band_names(entry.get("physicalBand", ""), "S2L1C")) == 1
    } or {str(number): band for number, band in enumerate(_BANDS)}
    offsets: dict[str, float] = {}
    for entry in (entry for tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET") for entry in xml.iterfind(f".//{tag}")):
        band = names.get(entry.get("band_id", ""), "")
        offset = _number((entry.text or "").strip(), called, entry.tag)
        if offsets.setdefault(band, offset) != offset and band:
            raise RasterError(
                f"{called} gives {band} two offsets, {offsets[band]:g} and {offset:g}; download the product again"
            )
    if offsets:
        lacking = [band for band in _BANDS if band not in offsets]
        if lacking:
            raise RasterError(
                f"{called} gives no offset for {', '.join(lacking)}, but for other bands; download the product again"
            )
        # Offsets are in stored numbers, as the quantification value is.
        return {band: Scaling(gain, gain * offsets[band], "the product's ADD_OFFSET") for band in _BANDS}
    scaling = baseline_scaling(baseline, "the product's baseline")
    if scaling is None:
        raise RasterError(
            f"{called} has processing baseline {baseline[:40]!r}; expected one such as 05.11: download it again"
        )
    return dict.fromkeys(_BANDS, Scaling(gain, scaling.offset, scaling.origin))


def _granules(xml: Element, root: Path, called: str) -> list[list[Path]]:
    """The image files of each granule, without their suffix."""
    granules = [
        [inside(root, root, (image.text or "").strip(), called) for image in granule.iterfind("IMAGE_FILE")]
        for granule in xml.iterfind(".//Granule")
    ]
    if not any(granules):
        raise RasterError(
            f"{called} lists no image files; expected the compact format of products since December 2016: give the "
            "folder of band files (GRANULE/.../IMG_DATA) itself"
        )
    return [images for images in granules if images]


def _band(band: str, images: Sequence[Path], modality: Modality, called: str, scaling: Scaling) -> Band:
    listed = [image for image in images if band in band_names(image.name, modality.family)]
    at = f"R{modality.resolution}m"
    # Level 2A keeps every band at several resolutions, in folders of their own; level 1C at its own alone.
    own = [image for image in listed if image.parent.name == at] if modality.family == "S2L2A" else listed
    if not own:
        raise RasterError(f"{called} lists no image of {band} at {modality.resolution} m; download the product again")
    files = [Path(f"{own[0]}{suffix}") for suffix in _SUFFIXES]
    file = next((file for file in files if file_size(file) is not None), None)
    if file is None:
        raise RasterError(f"{called} lacks {files[0].name}, which its XML lists; download the product again")
    if file_size(file) == 0:
        raise RasterError(f"{called}: {file.name} is empty (0 bytes); download the product again")
    return Band(band, file, 1, scaling)
