"""The stages of a scene on disk: each writes whole files, and is skipped where the ledger knows them finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..modalities import get
from ..pipeline import Pipeline, Progress
from ..solver import HISTORY, Plan, PlanState
from .decode import decode_strips, together
from .denoise import denoise_scene
from .draw import DATE, PLACE, Given, Layout, Windows, begin
from .encode import encode_windows, given_date, given_place
from .grid import WINDOW_CELLS
from .ledger import open_array, save_array
from .rasters import StripWriter
from .request import SceneTask
from .seams import SeamMeter
from .workplace import Workplace

Floats = NDArray[np.float32]

KEEP_EVERY_S = 120.0
"""Seconds of denoising between states that are kept."""

LOOK = 1024
"""Pixels a side of the looks at conditions, for pictures."""


class WindowRows:
    """The latents of a condition by window, in a file for each row of windows, which is read when it is asked for."""

    def __init__(self, files: list[Path], layout: Layout) -> None:
        self._rows = [open_array(path) for path in files]
        self._columns = len(layout.starts[1])

    def __getitem__(self, window: int) -> Floats:
        return self._rows[window // self._columns][window % self._columns]


@dataclass(frozen=True)
class RowFiles:
    """Where a row of windows of a condition lies: its latents, which pixels were measured, and a small look at it."""

    latents: Path
    known: Path
    look: Path


def row_files(place: Workplace, name: str, key: str, layout: Layout) -> list[RowFiles]:
    """The files of each row of windows of a condition."""
    folder = place.root / name / key
    parts = ("latents", "known", "look")
    return [RowFiles(*(folder / f"{part}-{row:04d}.npy" for part in parts)) for row in range(len(layout.starts[0]))]


def encode_conditions(
    pipeline: Pipeline, task: SceneTask, layout: Layout, place: Workplace, name: str, progress: Progress
) -> Given:
    """Encode all conditions in the windows of ``layout``, row by row of windows."""
    given = Given()
    columns, everywhere = len(layout.starts[1]), np.ones(len(layout.windows), bool)
    total = len(task.sources) * len(layout.windows)
    for number, source in enumerate(task.sources):
        files = row_files(place, name, source.key, layout)
        for row, paths in enumerate(files):
            work = f"{name} {source.key} row {row}"
            if place.ledger.finished(work) is None:
                windows = range(row * columns, (row + 1) * columns)
                encoded = encode_windows(pipeline, layout, source, windows, seed=task.request.seed)
                task.require_unchanged(source.key)
                paths.latents.parent.mkdir(parents=True, exist_ok=True)
                step = look_step(layout, source.key)
                save_array(paths.latents, encoded.latents)
                save_array(paths.known, np.packbits(encoded.known.reshape(columns, -1), axis=1))
                save_array(paths.look, encoded.values[:, :, ::step, ::step])
                place.ledger.record(work, [paths.latents, paths.known, paths.look])
            progress("encode", number * len(layout.windows) + (row + 1) * columns, total)
        pipeline.backend.release(f"encoder_{source.key}")
        given.latents[source.key] = WindowRows([paths.latents for paths in files], layout)
        given.present[source.key] = np.concatenate([open_array(paths.known).any(axis=1) for paths in files])
    if task.place:
        given.latents[PLACE], given.present[PLACE] = given_place(pipeline, layout), everywhere
    if task.date is not None:
        given.latents[DATE], given.present[DATE] = given_date(pipeline, layout, task.date), everywhere
    return given


def denoise_sample(
    pipeline: Pipeline,
    plan: Plan,
    windows: Windows,
    place: Workplace,
    name: str,
    *,
    seed: int,
    sample: int,
    report: Callable[[int], None],
) -> dict[str, Floats]:
    """The latents of one sample by key; taken up where the last kept state stands."""
    layout, ledger, path = windows.layout, place.ledger, place.root / name / f"latents-{sample}.npy"
    work, state_work = f"denoise {name} {sample}", f"state {name} {sample}"
    if ledger.finished(work) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = ledger.finished(state_work)
        if kept is None:
            state = PlanState.begin(begin(layout, seed=seed, sample=sample)[np.newaxis])
        else:
            state = _load(_state_path(path, int(kept["done"])), int(kept["done"]))
        since = time.monotonic()

        def keep(state: PlanState) -> None:
            nonlocal since
            if state.done < len(plan) and time.monotonic() - since >= KEEP_EVERY_S:
                target = _state_path(path, state.done)
                save_array(target, np.concatenate([state.x, state.anchor, *state.predictions]))
                ledger.record(state_work, [target], done=state.done)
                # Only now: until the ledger knew the newer state, the older one was the one to go on from.
                _remove_states(path, but=target)
                since = time.monotonic()

        flat = denoise_scene(pipeline.backend, plan, windows, state, batch=pipeline.batch, report=report, keep=keep)
        save_array(path, flat)
        ledger.record(work, [path])
        _remove_states(path)
    report(len(plan) * len(layout.windows))
    return windows.split(open_array(path))


def _state_path(latents: Path, done: int) -> Path:
    return latents.with_name(f"{latents.stem}.state-{done:04d}.npy")


def _remove_states(latents: Path, but: Path | None = None) -> None:
    for old in latents.parent.glob(f"{latents.stem}.state-*.npy"):
        if old != but:
            old.unlink()


def _load(path: Path, done: int) -> PlanState:
    arrays = np.array(open_array(path))
    x, anchor, *predictions = (row[np.newaxis] for row in arrays)
    return PlanState(done, x, anchor, predictions[:HISTORY])


def decode_samples(
    pipeline: Pipeline,
    layout: Layout,
    key: str,
    drawn: Sequence[Floats],
    place: Workplace,
    *,
    tags: dict[str, str],
    report: Callable[[int], None],
) -> list[float | None]:
    """Write the samples of an image modality as rasters below the workplace, and return their seam figures."""
    seams: list[float | None] = []
    step, count = together(pipeline, layout), len(layout.windows)
    for first in range(0, len(drawn), step):
        numbers = range(first, min(first + step, len(drawn)))
        works = [f"decode {number} {key}" for number in numbers]
        finished = [place.ledger.finished(work) for work in works]
        if any(done is None for done in finished):
            part = partial(_report_part, report, first * count, len(numbers))
            paths = [sample_path(place, key, number) for number in numbers]
            figures = _write_samples(pipeline, layout, key, [drawn[number] for number in numbers], paths, tags, part)
            for work, path, figure in zip(works, paths, figures, strict=True):
                finished[works.index(work)] = place.ledger.record(work, [path], seam=figure)
        seams += [done["seam"] for done in finished if done is not None]
        report(numbers.stop * count)
    return seams


def _report_part(report: Callable[[int], None], before: int, samples: int, done: int) -> None:
    report(before + done * samples)


def _write_samples(
    pipeline: Pipeline,
    layout: Layout,
    key: str,
    latents: Sequence[Floats],
    paths: Sequence[Path],
    tags: dict[str, str],
    report: Callable[[int], None],
) -> list[float | None]:
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    meters = [SeamMeter(key, layout.grid, layout.windows) for _ in paths]
    with ExitStack() as stack:
        writers = []
        for path in paths:
            number = path.stem.rpartition("-")[2]
            said = {**tags, "STATISTIC": f"sample {number}, counted from 0"}
            writers.append(stack.enter_context(StripWriter(path, key, layout.grid, said)))
        for first_row, strips in decode_strips(pipeline, layout, key, latents, report=report):
            for pixels, writer, meter in zip(strips, writers, meters, strict=True):
                writer.write(first_row, pixels)
                meter.add(first_row, pixels)
    return [meter.figure() for meter in meters]


def sample_path(place: Workplace, key: str, sample: int) -> Path:
    """Where a sample's raster lies while statistics are made of it."""
    return place.root / "samples" / f"{key}.sample-{sample}.tif"


def known_rows(place: Workplace, name: str, key: str, layout: Layout, row: int) -> NDArray[np.bool_]:
    """Which pixels of a condition were measured in a row of windows: (windows, H, W)."""
    size = get(key).size
    packed = open_array(row_files(place, name, key, layout)[row].known)
    return np.unpackbits(packed, axis=1).reshape(-1, size, size).astype(bool)


def look_step(layout: Layout, key: str) -> int:
    """Every how many pixels a look at a condition is taken: at most :data:`LOOK` a side, and whole steps a cell."""
    m = get(key)
    step = 1
    while max(layout.grid.shape(m.resolution)) > LOOK * step and m.size // WINDOW_CELLS % (2 * step) == 0:
        step *= 2
    return step


def look_at(place: Workplace, name: str, key: str, layout: Layout) -> Floats:
    """A condition over the whole scene, (C, H, W) float32, physical, NaN where not known, at :func:`look_step`."""
    m, step = get(key), look_step(layout, key)
    cell = m.size // WINDOW_CELLS // step
    rows, columns = layout.grid.cells
    out = np.full((len(m.bands), rows * cell, columns * cell), np.nan, np.float32)
    for first, paths in zip(layout.starts[0], row_files(place, name, key, layout), strict=True):
        for start, part in zip(layout.starts[1], open_array(paths.look), strict=True):
            side = part.shape[1]
            out[:, first * cell : first * cell + side, start * cell : start * cell + side] = part
    height, width = (-(-side // step) for side in layout.grid.shape(m.resolution))
    return out[:, :height, :width]
