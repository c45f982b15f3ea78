"""A small scene's files and what is said of them, for the tests of what is made of them."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from copgen_edge.runtime.bundle import sha256
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.scene.cog import to_cog
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.pictures import write_pictures
from copgen_edge.runtime.scene.rasters import StripWriter, write_validity
from copgen_edge.runtime.scene.statistics import write_statistics
from numpy.typing import NDArray
from rasterio.crs import CRS

GRID = SceneGrid(CRS.from_epsg(32632), 676_200.0, 5_274_060.0, 3_120, 2_160)
KEYS = ("DEM_DEM", "LULC_LULC", "S1RTC_vh_vv", "S2L2A_B01_B09")
SAMPLES = 3
RESULT: dict[str, Any] = {
    "copgen_edge": "0.1.0",
    "created": "2026-07-30T12:00:00+02:00",
    "model": {"variant": "tiny<1>", "weights": "random"},
    "bundle": {"path": "/somewhere/bundle", "manifest_sha256": "ab" * 32, "source": {}},
    "backend": {"backend": "onnxruntime", "device": "CPU", "precision": "fp32"},
    "solver": "dpm-solver-3",
    "steps": 20,
    "seed": 7,
    "samples": SAMPLES,
    "conditions": {
        "DEM_DEM": {
            "given_as": "DEM=/somewhere/dem.tif",
            "files": [{"path": "/somewhere/dem.tif", "sha256": "cd" * 32}],
        }
    },
    "condition_date": "2021-07-14",
    "notes": ["elevation: a <b>bold</b> & quiet note"],
    "grid": {"overlap": 25},
    "seams": {"DEM_DEM": {"joint": 1.0125, "tiles": 2.5}, "LULC_LULC": {"joint": None}},
    "missing": {"DEM_DEM": {"observed": 0.9, "filled": 0.06, "absent": 0.04, "absent_windows": 1}},
}


def sample(key: str, number: int) -> NDArray[np.float32]:
    """Sample ``number`` of ``key`` over :data:`GRID`, (C, H, W)."""
    modality = get(key)
    rng = np.random.default_rng(number)
    shape = (len(modality.bands), *GRID.shape(modality.resolution))
    if modality.is_codes:
        return rng.choice(list(modality.codes)[1:5], shape).astype(np.float32)
    low, high = {"backscatter": (0.01, 0.5), "elevation": (200.0, 900.0)}.get(modality.kind, (100.0, 4000.0))
    return rng.uniform(low, high, shape).astype(np.float32)


@cache
def product(base: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A folder in ``base``, made once, with statistics of :data:`SAMPLES` samples of each of :data:`KEYS`, the first
    sample, validity and pictures; and the entries of its files."""
    folder = base / "scene-product"
    folder.mkdir()
    files: list[dict[str, Any]] = []
    for key in KEYS:
        paths = []
        for number in range(SAMPLES):
            paths.append(folder / f"{key}.plain-{number}.tif")
            with StripWriter(paths[-1], key, GRID, {}) as strips:
                strips.write(0, sample(key, number))
        files += write_statistics(folder, key, paths, GRID, {})
        to_cog(paths[0], folder / f"{key}.sample-0.tif")
        files.append({"file": f"{key}.sample-0.tif", "modality": key, "kind": "sample", "sample": 0})
        for path in paths:
            path.unlink()
    write_validity(folder / "validity.tif", GRID, ["DEM_DEM"], validity, {})
    files.append({"file": "validity.tif", "modality": None, "kind": "validity", "sample": None})
    files += write_pictures(folder, GRID, files)
    return folder, [{**entry, "sha256": sha256(folder / entry["file"])} for entry in files]


def validity(first: int, end: int) -> NDArray[np.uint8]:
    """Codes of validity for one condition: the left fifth was filled, the upper ten rows are absent."""
    codes = np.ones((1, end - first, GRID.width // 10), np.uint8)
    codes[:, :, : GRID.width // 50] = 2
    codes[:, np.arange(first, end) < 10] = 3
    return codes
