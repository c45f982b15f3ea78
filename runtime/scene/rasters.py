"""The rasters of a scene that come in strips: the values of each modality, and how its conditions are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..modalities import get
from ..raster.storage import BLOCK, CLASS_UNIT, Storage, encode, of_values
from .blocks import BlockWriter, open_blocks
from .cog import to_cog
from .grid import SceneGrid

VALIDITY = {1: "observed", 2: "filled from neighbours", 3: "absent, the model drew without it"}
"""Code of a validity mask -> its meaning."""

VALIDITY_METRES = 10
"""Metres a pixel of a validity mask."""


class StripWriter:
    """Writes the values of one modality over a whole scene, strip by strip from the top.

    A context manager. The raster at ``path`` is stored as :func:`~..raster.storage.of_values` says, on the modality's
    own resolution, with ``tags`` and the tag ``MODALITY``; it appears when the block ends well, complete and read
    back, and not at all otherwise. Memory: 256 rows of stored pixels, and as much again for the check.

    Raises :class:`RequestError` where ``key`` has no pixels.
    """

    def __init__(self, path: Path, key: str, grid: SceneGrid, tags: Mapping[str, str]) -> None:
        self._modality = get(key)
        if not self._modality.is_image:
            raise RequestError(f"{key} has no pixels to write as a raster; put its values into the result's metadata")
        self._path = path
        self._grid = grid
        self._tags = {**tags, "MODALITY": key}
        self._shape = grid.shape(self._modality.resolution)
        self._next = 0
        self._opened: AbstractContextManager[BlockWriter] | None = None
        self._blocks: BlockWriter
        self._buffer: NDArray[Any]

    def __enter__(self) -> StripWriter:
        self._opened = self._open()
        self._blocks = self._opened.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._opened.__exit__(kind, error, trace) if self._opened else None

    @contextmanager
    def _open(self) -> Iterator[BlockWriter]:
        storage = of_values(self._modality)
        self._buffer = np.empty((len(storage.descriptions), BLOCK, self._shape[1]), storage.dtype)
        with open_blocks(self._path, storage, self._grid, self._modality.resolution, self._tags) as blocks:
            yield blocks
            if self._next != self._shape[0]:
                raise RequestError(
                    f"{self._path.name} got {self._next} of its {self._shape[0]} rows; write all of them"
                )

    def write(self, first_row: int, pixels: NDArray[Any]) -> None:
        """Write ``pixels`` (C, rows, W), physical or codes, from ``first_row`` on, with every column of the scene.

        Raises :class:`NonFiniteError` where a value is NaN or infinite, :class:`RequestError` where a code is unknown,
        the shape does not fit or ``first_row`` does not follow the last strip, and :class:`CopgenError` where the disk
        refuses.
        """
        height, width = self._shape
        bands = len(self._modality.bands)
        fits = pixels.ndim == 3 and (pixels.shape[0], pixels.shape[2]) == (bands, width)
        if not fits or first_row != self._next or first_row + pixels.shape[1] > height:
            raise RequestError(
                f"{self._path.name} was given rows from {first_row} on in an array of shape {pixels.shape}; expected "
                f"({bands}, rows, {width}) from row {self._next} on, {height} rows in all"
            )
        stored = encode(self._modality, pixels)
        while stored.shape[1]:
            filled = self._next % BLOCK
            taken = min(BLOCK - filled, stored.shape[1])
            self._buffer[:, filled : filled + taken] = stored[:, :taken]
            stored = stored[:, taken:]
            self._next += taken
            if filled + taken == BLOCK or self._next == height:
                self._blocks.write(self._buffer[:, : filled + taken], self._next - filled - taken)


def write_validity(
    path: Path,
    grid: SceneGrid,
    keys: Sequence[str],
    read_rows: Callable[[int, int], NDArray[np.uint8]],
    tags: Mapping[str, str],
) -> None:
    """Write what is known of the conditions ``keys``, a band each, as a COG of :data:`VALIDITY` codes at 10 m.

    ``read_rows(first, end)`` gives the codes of those rows, (keys, end - first, W), uint8. 0 is nodata; the meanings
    are band tags ``CLASS_<code>``.

    Raises :class:`RequestError` where the codes do not fit or one is unknown, and :class:`CopgenError` where ``path``
    cannot be written; nothing is left then.
    """
    height, width = grid.shape(VALIDITY_METRES)
    storage = Storage(
        "uint8", 0, keys, CLASS_UNIT, band_tags={f"CLASS_{code}": name for code, name in VALIDITY.items()}
    )
    codes = [storage.nodata, *VALIDITY]
    plain = path.with_name(f".{path.name}.plain")
    try:
        with open_blocks(plain, storage, grid, VALIDITY_METRES, {**tags, "STATISTIC": "validity"}) as blocks:
            for first in range(0, height, BLOCK):
                rows = read_rows(first, min(first + BLOCK, height))
                expected = (len(keys), min(BLOCK, height - first), width)
                if rows.shape != expected or not np.isin(rows, codes).all():
                    found = np.unique(rows)[:9].tolist()
                    raise RequestError(
                        f"validity from row {first} on has shape {rows.shape} and codes {found}, "
                        f"expected {expected} and codes of {codes}; pass one for every pixel"
                    )
                blocks.write(rows, first)
        to_cog(plain, path)
    finally:
        plain.unlink(missing_ok=True)
