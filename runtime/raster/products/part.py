"""What one product holds of one modality, and what its name says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError
from ...scalars import parse_date
from ..radiometry import BASELINE_OFFSET
from ..sources import Scaling, Source

Date = tuple[int, int, int]
"""Year, month, day."""

_PRODUCT = re.compile(r"(?:S2[A-D]_MSIL(?:1C|2A)|S1[A-D]_[A-Z0-9]{2}_GRD[A-Z_]_1S[A-Z]{2})_([0-9]{8})T[0-9]{6}_")
_BASELINE = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_[0-9]{8}T[0-9]{6}_N(0[0-9]{3})_")
"""The names that ESA gives its products; N9999 is no baseline but a reprocessing."""


@dataclass(frozen=True)
class Part:
    """One granule, scene or tile of a modality.

    ``about`` names the product for the plan. ``date`` is when it was sensed, and ``dated_by`` what says so.
    ``metadata`` are the files beside the rasters that decided how they are read. ``worldcover`` is whether something
    besides its codes says that it is ESA WorldCover.
    """

    source: Source
    about: str
    date: Date | None = None
    dated_by: str = ""
    metadata: tuple[Path, ...] = ()
    worldcover: bool = False
    notes: tuple[str, ...] = ()


def calendar_date(text: str) -> Date | None:
    """The date that an ISO 8601 time or ``YYYYMMDD`` begins with; None where it is none that the model can express."""
    found = re.match(r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})(?![0-9])", text.strip())
    try:
        return parse_date("-".join(found.groups())) if found else None
    except RequestError:
        return None


def named_date(name: str) -> Date | None:
    """The sensing date in the name of a Sentinel product."""
    found = _PRODUCT.search(name)
    return calendar_date(found[1]) if found else None


def named_baseline(name: str) -> str | None:
    """The processing baseline in the name of a Sentinel-2 product, such as ``05.09``."""
    found = _BASELINE.search(name)
    return f"{found[1][:2]}.{found[1][2:]}" if found else None


def baseline_scaling(baseline: str, origin: str) -> Scaling | None:
    """How a Sentinel-2 product of a processing baseline is scaled; None where the text is no baseline.

    Source: Sentinel-2 products specification 14.9 on, baseline 04.00 (25 January 2022): DN carry 1000 more.
    """
    found = re.fullmatch(r"N?([0-9]{2})\.?[0-9]{2}", baseline.strip())
    if not found or int(found[1]) == 99:
        return None
    return Scaling(1.0, BASELINE_OFFSET if int(found[1]) >= 4 else 0.0, f"{origin} {baseline.strip()}")


def spelled(names: Sequence[str], most: int = 3) -> str:
    """Names in a message: all of a few, the ends of many."""
    shown = list(dict.fromkeys(names))
    return ", ".join(shown) if len(shown) <= most else f"{shown[0]} ... {shown[-1]} ({len(shown)} of them)"
