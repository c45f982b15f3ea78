"""What a run is compared with: patches of which every modality is known, or some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..raster.conditions import ReadOptions, read_conditions

Arrays = Mapping[str, NDArray[Any]]

_FAMILIES = ("DEM", "LULC", "S1RTC", "S2L1C", "S2L2A", "cloud_mask")
_SENSED = re.compile(r"(?<!\d)(20\d{2})(\d{2})(\d{2})T\d{6}")


@dataclass(frozen=True)
class Truth:
    """N patches: ``names``, and ``physical`` arrays of N rows by modality key.

    ``draws``, where there are any, are M further draws of the truth under the same condition, (N, M, ...) by key: what
    a perfect model would sample from.
    """

    names: tuple[str, ...]
    physical: Arrays
    draws: Arrays | None = None

    def __len__(self) -> int:
        return len(self.names)

    def given(self, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The arrays of ``keys``; :class:`RequestError` where the truth lacks one."""
        if missing := [key for key in keys if key not in self.physical]:
            raise RequestError(
                f"the truth has no {', '.join(missing)}, only {', '.join(self.physical)}; leave it out of --given"
            )
        return {key: self.physical[key] for key in keys}


def read_cells(folder: Path, options: ReadOptions) -> Truth:
    """The middle patch of every cell below ``folder``, with place and, where product names tell it, date.

    Two layouts are known: ``FAMILY/CELL.tif`` with families DEM, LULC, S1RTC, S2L1C, S2L2A, cloud_mask; and that of
    Major TOM: ``Core-S2L2A/ROW/CELL/PRODUCT/BAND.tif`` (so too S2L1C, with its cloud mask, and S1RTC),
    ``Core-DEM/ROW/CELL/id/DEM.tif``, ``Core-LULC/ROW/COL/CELL_YEAR.tif``. Of several products the first is taken, but
    for the later of S2L1C, S2L2A and S1RTC one that was sensed on the day of the former, where there is one. Families
    that only some of the cells have are left out. Raises :class:`RequestError` where there are no cells, and as
    :func:`read_conditions` does for a cell that cannot be read.
    """
    cells = _find_cells(folder)
    if not cells:
        raise RequestError(
            f"{folder} holds no cells; expected FAMILY/CELL.tif ({', '.join(_FAMILIES)}) or Major TOM's Core-* folders"
        )
    common = set.intersection(*(set(found) for found in cells.values()))
    families = [family for family in _FAMILIES if family in common]
    if not families:
        raise RequestError(f"{folder}: its {len(cells)} cells have no family in common; evaluate them apart")
    rows = []
    for name, found in sorted(cells.items()):
        values = [(what, str(found[what])) for what in (*families, "date") if what in common]
        try:
            rows.append(read_conditions([*values, ("place", "auto")], options).physical)
        except RequestError as error:
            raise type(error)(f"cell {name}: {error}") from error
    physical = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return Truth(tuple(sorted(cells)), physical)


def _find_cells(folder: Path) -> dict[str, dict[str, Path | str]]:
    cells: dict[str, dict[str, Path | str]] = {}
    for family in _FAMILIES:
        for path in sorted((folder / family).glob("*.tif")):
            cells.setdefault(path.stem, {})[family] = path
    for family in ("S2L1C", "S2L2A", "S1RTC"):
        products: dict[str, list[Path]] = {}
        for path in sorted((folder / f"Core-{family}").glob("*/*/*")):
            if path.is_dir():
                products.setdefault(path.parent.name, []).append(path)
        for cell, several in products.items():
            found = cells.setdefault(cell, {})
            if family in found:
                continue
            same_day = (path for path in several if "date" in found and _day(path) == found["date"])
            product = next(same_day, several[0])
            found[family] = product
            if family == "S2L1C" and (product / "cloud_mask.tif").exists():
                found["cloud_mask"] = product / "cloud_mask.tif"
            if family != "S1RTC" and (day := _day(product)):
                found.setdefault("date", day)
    for path in sorted((folder / "Core-DEM").glob("*/*/*/DEM.tif")):
        cells.setdefault(path.parents[1].name, {}).setdefault("DEM", path)
    for path in sorted((folder / "Core-LULC").glob("*/*/*.tif")):
        cells.setdefault(path.stem.rpartition("_")[0], {}).setdefault("LULC", path)
    return cells


def _day(product: Path) -> str | None:
    """When a Sentinel product was sensed, as its name says: YYYY-MM-DD."""
    match = _SENSED.search(product.name)
    return "-".join(match.groups()) if match else None
