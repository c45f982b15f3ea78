"""JSON and XML that somebody else wrote: read within bounds, and never trusted to name a path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import RasterError

_MOST_BYTES = 64 * 2**20
"""No product's metadata comes near; a search result of a thousand items is 20 MB."""


def read_bytes(path: Path, called: str) -> bytes:
    """The content of a file of metadata; :class:`RasterError`, which calls it ``called``, where there is none."""
    try:
        if not path.is_file():
            raise RasterError(f"{called} is missing or no file; check the path, or download the product again")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise RasterError(f"{called} has {size / 1e6:.0f} MB; expected metadata of at most {_MOST_BYTES / 1e6:.0f}")
        return path.read_bytes()
    except OSError as error:
        raise RasterError(f"{called} cannot be read ({error.strerror}); give another path") from error


def read_json(path: Path, called: str) -> Any:
    """What a JSON file holds; :class:`RasterError`, which calls it ``called``, where it is none."""
    try:
        return json.loads(read_bytes(path, called))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise RasterError(f"{called} is no JSON ({reason}); write or download it again") from None


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses the declaration that entities, and with them expansion without end, would come in."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ElementTree.ParseError("it has a DOCTYPE, which no product has")


def read_xml(path: Path, called: str) -> ElementTree.Element:
    """The root of an XML file; :class:`RasterError`, which calls it ``called``, where it is none."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        return ElementTree.fromstring(read_bytes(path, called), parser)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RasterError(f"{called} is no XML ({reason}); download the product again") from None


def file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none of that name, or none could be."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def inside(root: Path, folder: Path, name: str, called: str) -> Path:
    """The file that ``name``, found in a document ``called``, is relative to ``folder``.

    Raises :class:`RasterError` where it leaves ``root``, which is what the user gave.
    """
    joined = os.path.normpath(folder / name) if "\0" not in name else ""
    if not joined or not Path(joined).is_relative_to(os.path.normpath(root)):
        raise RasterError(
            f"{called} names {name[:200]!r}, which is outside {root.name or root}; expected files below it: move them "
            "there, and name them by relative paths"
        )
    return Path(joined)
