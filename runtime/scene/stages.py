"""The stages of a scene on disk: each writes whole files, and is skipped where the ledger knows them finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..modalities import get
from ..pipeline import Pipeline, Progress
from ..solver import HISTORY, Plan, PlanState
from .decode import decode_strips
from .denoise import denoise_scene
from .draw import DATE, PLACE, Given, Layout, Windows, begin
from .encode import encode_windows, given_date, given_place
from .ledger import save_array
from .rasters import StripWriter
from .request import SceneTask
from .seams import SeamMeter
from .workplace import Workplace

Floats = NDArray[np.float32]

KEEP_EVERY_S = 120.0
"""Seconds of denoising between states that are kept."""


class WindowRows:
    """The latents of a condition by window, in a file for each row of windows, which is read when it is asked for."""

    def __init__(self, files: list[Path], layout: Layout) -> None:
        self._rows = [np.load(path, mmap_mode="r") for path in files]
        self._columns = len(layout.starts[1])

    def __getitem__(self, window: int) -> Floats:
        return self._rows[window // self._columns][window % self._columns]


def row_files(place: Workplace, name: str, key: str, layout: Layout) -> list[tuple[Path, Path]]:
    """For each row of windows, where the latents of a condition lie and which of its pixels were measured."""
    folder = place.root / name / key
    return [
        (folder / f"latents-{row:04d}.npy", folder / f"known-{row:04d}.npy") for row in range(len(layout.starts[0]))
    ]


def encode_conditions(
    pipeline: Pipeline, task: SceneTask, layout: Layout, place: Workplace, name: str, progress: Progress
) -> Given:
    """Encode all conditions in the windows of ``layout``, row by row of windows."""
    given = Given()
    columns, everywhere = len(layout.starts[1]), np.ones(len(layout.windows), bool)
    total = len(task.sources) * len(layout.windows)
    for number, source in enumerate(task.sources):
        files = row_files(place, name, source.key, layout)
        for row, (latents, known) in enumerate(files):
            work = f"{name} {source.key} row {row}"
            if place.ledger.finished(work) is None:
                windows = range(row * columns, (row + 1) * columns)
                encoded = encode_windows(pipeline, layout, source, windows, seed=task.request.seed)
                latents.parent.mkdir(parents=True, exist_ok=True)
                save_array(latents, encoded.latents)
                save_array(known, np.packbits(encoded.known.reshape(columns, -1), axis=1))
                place.ledger.record(work, [latents, known])
            progress("encode", number * len(layout.windows) + (row + 1) * columns, total)
        pipeline.backend.release(f"encoder_{source.key}")
        given.latents[source.key] = WindowRows([latents for latents, _ in files], layout)
        given.present[source.key] = np.concatenate([np.load(known).any(axis=1) for _, known in files])
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
    return windows.split(np.load(path, mmap_mode="r"))


def _state_path(latents: Path, done: int) -> Path:
    return latents.with_name(f"{latents.stem}.state-{done:04d}.npy")


def _remove_states(latents: Path, but: Path | None = None) -> None:
    for old in latents.parent.glob(f"{latents.stem}.state-*.npy"):
        if old != but:
            old.unlink()


def _load(path: Path, done: int) -> PlanState:
    arrays = np.load(path)
    x, anchor, *predictions = (row[np.newaxis] for row in arrays)
    return PlanState(done, x, anchor, predictions[:HISTORY])


def decode_sample(
    pipeline: Pipeline,
    layout: Layout,
    key: str,
    latents: Floats,
    place: Workplace,
    *,
    sample: int,
    tags: dict[str, str],
    report: Callable[[int], None],
) -> float | None:
    """Write one sample of an image modality as a raster below the workplace, and return its seam figure."""
    work, path = f"decode {sample} {key}", sample_path(place, key, sample)
    done = place.ledger.finished(work)
    if done is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        meter = SeamMeter(key, layout.grid, layout.windows)
        with StripWriter(path, key, layout.grid, {**tags, "STATISTIC": f"sample {sample}, counted from 0"}) as writer:
            for first_row, pixels in decode_strips(pipeline, layout, key, latents, report=report):
                writer.write(first_row, pixels)
                meter.add(first_row, pixels)
        done = place.ledger.record(work, [path], seam=meter.figure())
    report(len(layout.windows))
    return done["seam"]


def sample_path(place: Workplace, key: str, sample: int) -> Path:
    """Where a sample's raster lies while statistics are made of it."""
    return place.root / "samples" / f"{key}.sample-{sample}.tif"


def known_rows(place: Workplace, name: str, key: str, layout: Layout, row: int) -> NDArray[np.bool_]:
    """Which pixels of a condition were measured in a row of windows: (windows, H, W)."""
    size = get(key).size
    packed = np.load(row_files(place, name, key, layout)[row][1])
    return np.unpackbits(packed, axis=1).reshape(-1, size, size).astype(bool)
