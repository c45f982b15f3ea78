"""Scenes on NumPy arrays that know where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from .. import transforms
from ..errors import RequestError
from ..modalities import get
from ..pipeline import Pipeline, Progress
from ..raster.conditions import ReadOptions
from ..solver import PlanState
from .decode import decode_strips, together
from .denoise import denoise_scene
from .draw import DATE, PLACE, Given, Layout, Windows, begin
from .encode import encode_windows, given_date, given_place
from .request import SceneRequest, SceneTask, prepare

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class GeoArray:
    """Pixels and where they lie.

    ``values`` is (bands, H, W), or of results (samples, bands, H, W), in physical units, bands in the modality's order;
    ``transform`` leads from column and row to x and y of ``crs``. ``nodata`` marks what is not known; NaN always does.
    """

    values: NDArray[Any]
    transform: Affine
    crs: CRS
    nodata: float | None = None


def generate_scene(
    pipeline: Pipeline,
    conditions: Mapping[str, GeoArray],
    outputs: Sequence[str],
    *,
    place: bool = False,
    date: tuple[int, int, int] | None = None,
    samples: int = 1,
    steps: int | None = None,
    seed: int = 0,
    solver: str | None = None,
    overlap: int = 25,
    bbox: tuple[float, float, float, float] | None = None,
    options: ReadOptions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """See :meth:`Pipeline.generate_scene`."""
    with _in_memory(conditions) as paths:
        values = [*paths.items()]
        values += [("place", "auto")] if place else []
        values += [("date", f"{date[0]:04d}-{date[1]:02d}-{date[2]:02d}")] if date is not None else []
        request = SceneRequest(
            values,
            outputs,
            Path(),
            samples,
            steps,
            seed,
            solver,
            overlap,
            bbox,
            options=options or ReadOptions(),
        )
        task = prepare(pipeline, request)
        return _draw(pipeline, task, progress)


def _draw(pipeline: Pipeline, task: SceneTask, progress: Progress) -> dict[str, Any]:
    layout, request = task.layout, task.request
    given = _given(pipeline, task, progress)
    calls = len(task.plan) * len(layout.windows)
    drawn = []
    for sample in range(request.samples):
        windows = Windows(layout, given, seed=request.seed, sample=sample)
        flat = denoise_scene(
            pipeline.backend,
            task.plan,
            windows,
            PlanState.begin(begin(layout, seed=request.seed, sample=sample)[np.newaxis]),
            batch=pipeline.batch,
            report=partial(_report, progress, sample * calls, request.samples * calls),
        )
        drawn.append(windows.split(flat))
    return {key: _result(pipeline, layout, key, [latents[key] for latents in drawn]) for key in layout.outputs}


def _result(pipeline: Pipeline, layout: Layout, key: str, drawn: Sequence[Floats]) -> GeoArray | NDArray[Any]:
    m = get(key)
    if not m.is_image:
        physical = [transforms.to_physical(key, latents.reshape(-1, 1, 1, 3)) for latents in drawn]
        return np.stack(physical) if key == PLACE else np.concatenate(physical)
    shape = (len(drawn), len(m.bands), *layout.grid.shape(m.resolution))
    out: NDArray[Any] = np.empty(shape, np.uint8 if m.is_codes else np.float32)
    step = together(pipeline, layout)
    for first in range(0, len(drawn), step):
        for row, strips in decode_strips(pipeline, layout, key, drawn[first : first + step]):
            out[first : first + step, :, row : row + strips.shape[2]] = strips
    return GeoArray(out, layout.grid.transform(m.resolution), layout.grid.crs)


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress("denoise", before + done, total)


def _given(pipeline: Pipeline, task: SceneTask, progress: Progress) -> Given:
    layout, given = task.layout, Given()
    every = range(len(layout.windows))
    for number, source in enumerate(task.sources):
        encoded = encode_windows(pipeline, layout, source, every, seed=task.request.seed)
        given.latents[source.key] = encoded.latents
        given.present[source.key] = encoded.present
        progress("encode", number + 1, len(task.sources))
    if task.place:
        given.latents[PLACE], given.present[PLACE] = given_place(pipeline, layout), np.ones(len(every), bool)
    if task.date is not None:
        given.latents[DATE], given.present[DATE] = given_date(pipeline, layout, task.date), np.ones(len(every), bool)
    return given


@contextmanager
def _in_memory(conditions: Mapping[str, GeoArray]) -> Iterator[dict[str, str]]:
    """The conditions as rasters in memory, so that arrays go the way that files go: path by key."""
    with ExitStack() as stack:
        yield {key: _raster(stack, key, array) for key, array in conditions.items()}


def _raster(stack: ExitStack, key: str, array: GeoArray) -> str:
    m = get(key)
    values = np.asarray(array.values)
    if not m.is_image:
        raise RequestError(f"{key} is no raster; give place=True or date=(year, month, day)")
    if values.ndim != 3 or len(values) != len(m.bands):
        raise RequestError(
            f"{key}: found an array of shape {values.shape}, expected ({len(m.bands)}, H, W) with the bands "
            f"{', '.join(m.bands)}"
        )
    if values.dtype.kind not in "iuf":
        raise RequestError(f"{key}: found values of type {values.dtype}, expected numbers")
    if values.dtype.itemsize == 8:
        # GDAL before 3.5 has no 64-bit integers, and no modality needs them.
        values = values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
    memory = stack.enter_context(MemoryFile(ext=".tif"))
    nodata = array.nodata if array.nodata is not None or values.dtype.kind != "f" else float("nan")
    with memory.open(
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs=array.crs,
        transform=array.transform,
        nodata=nodata,
    ) as dataset:
        dataset.descriptions = m.bands
        dataset.write(values)
    return str(memory.name)
