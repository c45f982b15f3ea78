"""What the tests of scenes share: a source held in memory, and scenes drawn with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.pipeline import Pipeline
from copgen_edge.runtime.raster.window import GroundWindow
from copgen_edge.runtime.scene.grid import SceneGrid
from numpy.typing import NDArray
from rasterio.crs import CRS

UTM = CRS.from_epsg(32631)


class ArraySource:
    """Pixels on the scene's own grid; what lies beyond them is not known."""

    def __init__(self, key: str, grid: SceneGrid, values: NDArray[Any]) -> None:
        self.key, self._grid, self.values = key, grid, values.astype(np.float32)

    def read(self, window: GroundWindow) -> NDArray[np.float32]:
        m = get(self.key)
        row = round((self._grid.top - window.top) / m.resolution)
        column = round((window.left - self._grid.left) / m.resolution)
        out = np.full((len(self.values), m.size, m.size), np.nan, np.float32)
        part = self.values[:, row : row + m.size, column : column + m.size]
        out[:, : part.shape[1], : part.shape[2]] = part
        return out


def scene_grid(width: int, height: int, first_cell: tuple[int, int] = (0, 0)) -> SceneGrid:
    """A scene of ``width`` x ``height`` metres in Belgium."""
    return SceneGrid(UTM, 500_000.0, 5_600_040.0, width, height, first_cell)


def relief(grid: SceneGrid, seed: int = 0) -> NDArray[np.float32]:
    """Elevation (1, H, W) in metres."""
    rng = np.random.default_rng(seed)
    return rng.uniform(1, 900, (1, *grid.shape(30))).astype(np.float32)


@pytest.fixture(scope="session")
def pipeline(bundle: Path) -> Pipeline:
    """The small bundle on the CPU."""
    return Pipeline.load(bundle, backend="onnxruntime-cpu")
