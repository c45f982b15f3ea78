"""Cells of Major TOM as they lie on a disk: ``Core-S2L2A/<row>/<cell>/<product>/<band>.tif``."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import RasterError
from ..sources import rasters_in
from .safe import is_safe

_DEEPEST = 5
"""Folders below the one given: the root of everything, Core-..., row, cell, product."""

_MOST_FOLDERS = 4096

_HOLDS = {"cloud_mask": "S2L1C"}
"""Whose folder a family lies in where it has none of its own."""


def find_product(folder: Path, name: str, family: str) -> Path:
    """The one folder of rasters of a family below ``folder``, or ``folder`` itself where rasters lie in it.

    Folders called ``Core-...`` count only for the family that they hold. Raises :class:`RasterError` where there is
    more than one such folder, or a SAFE product.
    """
    found: list[Path] = []
    core = f"Core-{_HOLDS.get(family, family)}"
    try:
        pending, seen = [(folder, 0)], 0
        while pending:
            here, depth = pending.pop(0)
            seen += 1
            if seen > _MOST_FOLDERS:
                raise RasterError(
                    f"{name}: {str(folder)!r} has more than {_MOST_FOLDERS} folders; give the folder of one product"
                )
            if is_safe(here):
                raise RasterError(f"{name}: {str(folder)!r} holds a SAFE product; give it itself: {here}")
            if rasters_in(here):
                found.append(here)
                continue
            below = sorted(entry.path for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False))
            pending.extend(
                (Path(path), depth + 1)
                for path in below
                if depth < _DEEPEST and (not Path(path).name.startswith("Core-") or Path(path).name == core)
            )
    except OSError as error:
        raise RasterError(f"{name}: {str(folder)!r} cannot be read ({error.strerror}); give another folder") from error
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:4]) + (", ..." if len(found) > 4 else "")
        raise RasterError(
            f"{name}: {str(folder)!r} has {len(found)} folders of rasters ({names}); give the one that is meant, or "
            f"each by a {name}=... of its own"
        )
    # Without one, the message about an empty folder is that of any folder.
    return found[0] if found else folder
