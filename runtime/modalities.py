"""The catalogue of the twelve modalities: order, channels, sizes, latent shapes, units and constants.

The order is the network's own (keys sorted), and with it the order of every indexed weight and of the joint latent.
Source: COP-GEN (arXiv 2603.03239), section 3 and the published configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

from .errors import RequestError

PATCH_METRES = 1920
"""Side of the ground patch that the model knows, in metres."""

CELL_METRES = 480
"""Side of a cell, in metres: the least step that is a whole number of latent cells at 10, 20, 30 and 60 m."""


@dataclass(frozen=True)
class Modality:
    """One modality.

    ``bands`` are the physical channels in tensor order; ``channels`` counts the channels in model space, which differ
    for codes (one-hot). ``size`` (pixels a side) and ``resolution`` (metres a pixel) are 0 for the two scalars.
    ``latent_shape`` is (C, H, W), and ``scale_factor`` multiplies the autoencoder's latent before the network sees it.
    ``constants`` are what the transform to model space needs, recorded in the manifest.
    """

    key: str
    family: str
    kind: str
    bands: tuple[str, ...]
    units: str
    size: int
    resolution: int
    latent_shape: tuple[int, int, int]
    scale_factor: float = 1.0
    codes: Mapping[int, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether it has pixels, and so an autoencoder."""
        return self.size > 0

    @property
    def is_codes(self) -> bool:
        """Whether its pixels are class codes."""
        return bool(self.codes)

    @property
    def channels(self) -> int:
        """Channels in model space: one a band, or one a class."""
        return len(self.codes) or len(self.bands)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the image in model space."""
        return (self.channels, self.size, self.size)

    @property
    def latent_size(self) -> int:
        """Floats a sample in the joint latent."""
        return prod(self.latent_shape)

    @property
    def cell_latent(self) -> int:
        """Latent pixels a side of one 480 m cell."""
        return self.latent_shape[1] * CELL_METRES // PATCH_METRES


def _frozen(**items: float) -> Mapping[str, float]:
    return MappingProxyType(items)


_LULC = MappingProxyType(
    {
        0: "no data",
        1: "water",
        2: "trees",
        4: "flooded vegetation",
        5: "crops",
        7: "built-up",
        8: "bare",
        9: "snow/ice",
        10: "clouds",
        11: "rangeland",
    }
)
_CLOUDS = MappingProxyType({0: "clear", 1: "thick cloud", 2: "thin cloud", 3: "cloud shadow"})
_DN = _frozen(quantification=10000.0)
_DB = _frozen(floor=2.6380407689430285e-06, min_db=-55.787186, max_db=40.2258)
_METRES = _frozen(floor=5.899129519093549e-06, min_log=0.000006, max_log=9.088)
_B10M = ("B04", "B03", "B02", "B08")
_B20M = ("B05", "B06", "B07", "B8A", "B11", "B12")


def _sentinel2(key: str, family: str, bands: tuple[str, ...], resolution: int, scale_factor: float) -> Modality:
    size = PATCH_METRES // resolution
    return Modality(
        key,
        family,
        "reflectance",
        bands,
        "DN",
        size,
        resolution,
        (8, size // 8, size // 8),
        scale_factor,
        constants=_DN,
    )


MODALITIES: tuple[Modality, ...] = (
    Modality("3d_cartesian_lat_lon", "place", "place", ("x", "y", "z"), "degrees", 0, 0, (1, 1, 3)),
    Modality("DEM_DEM", "DEM", "elevation", ("DEM",), "m", 64, 30, (8, 8, 8), 0.404247, constants=_METRES),
    Modality("LULC_LULC", "LULC", "codes", ("LULC",), "class", 192, 10, (8, 24, 24), 0.464794, codes=_LULC),
    Modality(
        "S1RTC_vh_vv",
        "S1RTC",
        "backscatter",
        ("vv", "vh"),
        "linear power",
        192,
        10,
        (8, 24, 24),
        0.633804,
        constants=_DB,
    ),
    _sentinel2("S2L1C_B01_B09_B10", "S2L1C", ("B01", "B09", "B10"), 60, 0.565812),
    _sentinel2("S2L1C_B02_B03_B04_B08", "S2L1C", _B10M, 10, 0.772514),
    _sentinel2("S2L1C_B05_B06_B07_B11_B12_B8A", "S2L1C", _B20M, 20, 0.765817),
    Modality(
        "S2L1C_cloud_mask",
        "cloud_mask",
        "codes",
        ("cloud_mask",),
        "class",
        192,
        10,
        (8, 24, 24),
        0.557045,
        codes=_CLOUDS,
    ),
    _sentinel2("S2L2A_B01_B09", "S2L2A", ("B01", "B09"), 60, 0.571367),
    _sentinel2("S2L2A_B02_B03_B04_B08", "S2L2A", _B10M, 10, 0.853416),
    _sentinel2("S2L2A_B05_B06_B07_B11_B12_B8A", "S2L2A", _B20M, 20, 0.567267),
    Modality("mean_timestamps", "date", "date", ("sin", "cos", "year"), "calendar date", 0, 0, (1, 1, 3)),
)

KEYS: tuple[str, ...] = tuple(m.key for m in MODALITIES)
BY_KEY: Mapping[str, Modality] = MappingProxyType({m.key: m for m in MODALITIES})
IMAGE_KEYS: tuple[str, ...] = tuple(m.key for m in MODALITIES if m.is_image)
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        family: tuple(m.key for m in MODALITIES if m.family == family)
        for family in ("DEM", "LULC", "S1RTC", "S2L1C", "S2L2A", "cloud_mask", "place", "date")
    }
)
JOINT_SIZE: int = sum(m.latent_size for m in MODALITIES)
"""Floats a sample in the joint latent: 26,118."""


def _slices() -> Mapping[str, slice]:
    start, found = 0, {}
    for m in MODALITIES:
        found[m.key] = slice(start, start + m.latent_size)
        start += m.latent_size
    return MappingProxyType(found)


JOINT_SLICES: Mapping[str, slice] = _slices()
"""Where each modality lies in the joint latent."""


def get(key: str) -> Modality:
    """The modality of ``key``; :class:`RequestError` where there is none."""
    try:
        return BY_KEY[key]
    except KeyError:
        raise RequestError(f"unknown modality {key!r}; keys are {', '.join(KEYS)}") from None


def resolve(names: Iterable[str] | str) -> tuple[str, ...]:
    """Keys of ``names`` (keys or families, or one of them alone), without repeats, in network order.

    Raises :class:`RequestError` for a name that is neither.
    """
    wanted: set[str] = set()
    for name in [names] if isinstance(names, str) else names:
        if name in BY_KEY:
            wanted.add(name)
        elif name in FAMILIES:
            wanted.update(FAMILIES[name])
        else:
            raise RequestError(
                f"unknown modality {name!r}; families are {', '.join(FAMILIES)}, and keys are {', '.join(KEYS)}"
            )
    return tuple(key for key in KEYS if key in wanted)
