"""The lattice of a scene: 480 m cells, the windows of 4 x 4 cells that cover them, and what of a window is written."""

from __future__ import annotations

from dataclasses import dataclass

from affine import Affine
from rasterio.coords import BoundingBox
from rasterio.crs import CRS

from ..errors import RequestError
from ..modalities import CELL_METRES, PATCH_METRES
from ..raster.window import STEP_METRES, GroundWindow

WINDOW_CELLS = PATCH_METRES // CELL_METRES
STRIDES = {0: 4, 25: 3, 50: 2}
"""Overlap of neighbouring windows, in percent of their side -> cells from one window to the next."""


@dataclass(frozen=True)
class SceneGrid:
    """A rectangle of ground, north up, on a projected grid in metres.

    ``left`` and ``top`` are its upper-left corner; ``width`` and ``height`` are in metres, multiples of 60, so that it
    is a whole number of pixels at 10, 20, 30 and 60 m. ``first_cell`` (row, column) is what its upper-left cell is
    called in the lattice that noise is keyed by: parts of a larger scene share its noise when they share its lattice.
    """

    crs: CRS
    left: float
    top: float
    width: int
    height: int
    first_cell: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if side < STEP_METRES or side % STEP_METRES:
                raise RequestError(
                    f"found a scene of {self.width} x {self.height} m, expected sides that are multiples of "
                    f"{STEP_METRES} m, so that they are whole pixels at every resolution"
                )

    @property
    def bounds(self) -> BoundingBox:
        """Left, bottom, right, top in metres of the CRS."""
        return BoundingBox(self.left, self.top - self.height, self.left + self.width, self.top)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells that hold the scene, at least those of one window."""
        return tuple(max(WINDOW_CELLS, -(-side // CELL_METRES)) for side in (self.height, self.width))  # type: ignore[return-value]

    def transform(self, resolution: int) -> Affine:
        """The geotransform of the scene's pixels at ``resolution`` metres."""
        return Affine(float(resolution), 0.0, self.left, 0.0, -float(resolution), self.top)

    def shape(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of the scene's pixels at ``resolution`` metres."""
        return self.height // resolution, self.width // resolution

    def windows(self, overlap: int) -> tuple[tuple[int, int], ...]:
        """The upper-left cells (row, column) of the windows at ``overlap`` percent, row by row.

        The last window of a row or column is shifted back to end with the lattice. Raises :class:`RequestError` for
        an overlap that is no key of :data:`STRIDES`.
        """
        if overlap not in STRIDES:
            raise RequestError(f"found an overlap of {overlap!r} %, expected one of {', '.join(map(str, STRIDES))}")
        rows, columns = (starts(count, STRIDES[overlap]) for count in self.cells)
        return tuple((row, column) for row in rows for column in columns)

    def ground(self, cell: tuple[int, int]) -> GroundWindow:
        """The window of ground whose upper-left cell is ``cell`` (row, column)."""
        row, column = cell
        return GroundWindow(self.crs, self.left + column * CELL_METRES, self.top - row * CELL_METRES)

    def inside(self, cell: tuple[int, int], resolution: int) -> tuple[int, int]:
        """How many rows and columns of pixels of the window at ``cell`` lie in the scene: what sticks out at its lower
        or right edge is padded by reflection on the way in and never written."""
        return tuple(  # type: ignore[return-value]
            min(PATCH_METRES, side - start * CELL_METRES) // resolution
            for side, start in zip((self.height, self.width), cell, strict=True)
        )


def starts(cells: int, stride: int) -> tuple[int, ...]:
    """The first cells of the windows along one side of ``cells`` cells."""
    last = cells - WINDOW_CELLS
    return tuple(dict.fromkeys((*range(0, last, stride), last)))
