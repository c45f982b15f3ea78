"""A scene, end to end: products in, rasters with their uncertainty out, resumable at any point."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import transforms
from ..bundle import sha256
from ..components import STEP
from ..modalities import get
from ..pipeline import Pipeline, Progress
from ..provenance import days, degrees, describe_run, raster_tags
from .cog import to_cog
from .decode import decode_strips
from .draw import DATE, PLACE, Layout, Windows
from .encode import ABSENT, FILLED, OBSERVED, mark
from .ledger import open_array, save_array
from .page import write_page
from .pictures import write_pictures
from .rasters import write_validity
from .request import SceneTask, fingerprint
from .seams import SeamMeter
from .stac_item import write_item
from .stages import decode_samples, denoise_sample, encode_conditions, known_rows, look_at, sample_path
from .statistics import write_statistics
from .workplace import Workplace, scene_folder

Floats = NDArray[np.float32]

RESULT = "result.json"
VALIDITY = "validity.tif"


def generate_scene_folder(
    pipeline: Pipeline, task: SceneTask, *, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Write what ``task`` asks for into the new folder ``task.request.out``; what ``result.json`` holds.

    Work in progress lies in a hidden folder beside it: the same request, started again after it was stopped in whatever
    way, goes on from there and ends in the same files.

    Raises :class:`RequestError` where another process or another request holds the folder, :class:`RasterError` for an
    input that cannot be read, :class:`NonFiniteError` where the model fails, and :class:`CopgenError` where the disk
    does.
    """
    provenance = describe_run(pipeline, task.plan, task.request.seed, task.files, task.notes)
    with scene_folder(task.request.out, fingerprint(pipeline, task, provenance)) as place:
        return _Run(pipeline, task, place, provenance, progress).all()


class _Run:
    """The stages in their order, on one workplace."""

    def __init__(
        self,
        pipeline: Pipeline,
        task: SceneTask,
        place: Workplace,
        provenance: dict[str, Any],
        progress: Progress,
    ) -> None:
        # Components are released when their stage is done, and not after every strip of windows.
        self._pipeline = Pipeline(pipeline.bundle, pipeline.backend, batch=pipeline.batch)
        self._task, self._place, self._progress = task, place, progress
        self._layout, self._request = task.layout, task.request
        self._images = [key for key in task.layout.outputs if get(key).is_image]
        began = place.ledger.finished("begin")
        if began is None:
            began = place.ledger.record("begin", [], created=provenance["created"])
        self._provenance = {**provenance, **began}
        self._tags = raster_tags(self._provenance)

    def all(self) -> dict[str, Any]:
        drawn = self._draw(self._layout, "scene", self._request.samples)
        tiles = Layout(self._layout.grid, 0, self._layout.outputs)
        compared = self._request.compare_tiling and self._request.overlap
        tiled = self._draw(tiles, "tiles", 1) if compared else []
        self._pipeline.backend.release(STEP)
        seams = {}
        for number, key in enumerate(self._images):
            seams[key] = {"joint": _mean(self._decode(key, [latents[key] for latents in drawn], number))}
            if compared:
                seams[key]["tiles"] = self._seam_of_tiles(tiles, key, tiled[0][key])
            self._pipeline.backend.release(f"decoder_{key}")
        files = [*self._statistics(), *self._samples()]
        missing = self._validity(files)
        result = {
            **self._provenance,
            "grid": self._grid(),
            "samples": self._request.samples,
            "condition_date": days(np.array([self._task.date]))[0] if self._task.date else None,
            **_spell_scalars(drawn),
            "seams": seams,
            "missing": missing,
        }
        return self._finish(result, files)

    def _draw(self, layout: Layout, name: str, samples: int) -> list[dict[str, Floats]]:
        """The latents of each sample by key, in memory-mapped files."""
        given = encode_conditions(self._pipeline, self._task, layout, self._place, name, self._progress)
        calls = len(self._task.plan) * len(layout.windows)
        return [
            denoise_sample(
                self._pipeline,
                self._task.plan,
                Windows(layout, given, seed=self._request.seed, sample=sample),
                self._place,
                name,
                seed=self._request.seed,
                sample=sample,
                report=partial(self._report, "denoise", sample * calls, samples * calls),
            )
            for sample in range(samples)
        ]

    def _decode(self, key: str, drawn: Sequence[Floats], number: int) -> list[float | None]:
        each = len(drawn) * len(self._layout.windows)
        return decode_samples(
            self._pipeline,
            self._layout,
            key,
            drawn,
            self._place,
            tags=self._tags,
            report=partial(self._report, "decode", number * each, len(self._images) * each),
        )

    def _report(self, what: str, before: int, total: int, done: int) -> None:
        self._progress(what, before + done, total)

    def _seam_of_tiles(self, layout: Layout, key: str, latents: Floats) -> float | None:
        """The seam figure of the first sample where windows were drawn one by one, without overlap."""
        done = self._place.ledger.finished(f"tiles {key}")
        if done is None:
            meter = SeamMeter(key, layout.grid, layout.windows)
            for first_row, strips in decode_strips(self._pipeline, layout, key, [latents]):
                meter.add(first_row, strips[0])
            done = self._place.ledger.record(f"tiles {key}", [], seam=_mean([meter.figure()]))
        return done["seam"]

    def _statistics(self) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = []
        for number, key in enumerate(self._images):
            done = self._place.ledger.finished(f"statistics {key}")
            if done is None:
                paths = [sample_path(self._place, key, sample) for sample in range(self._request.samples)]
                entries = write_statistics(self._place.result, key, paths, self._layout.grid, self._tags)
                written = [self._place.result / entry["file"] for entry in entries]
                done = self._place.ledger.record(f"statistics {key}", written, entries=entries)
            files += done["entries"]
            self._progress("statistics", number + 1, len(self._images))
        return files

    def _samples(self) -> list[dict[str, Any]]:
        if not self._request.keep_samples:
            return []
        files = []
        for key in self._images:
            for sample in range(self._request.samples):
                source = sample_path(self._place, key, sample)
                target = self._place.result / source.name
                if self._place.ledger.finished(f"cog {source.name}") is None:
                    to_cog(source, target)
                    self._place.ledger.record(f"cog {source.name}", [target])
                files.append({"file": source.name, "modality": key, "kind": "sample", "sample": sample})
        return files

    def _validity(self, files: list[dict[str, Any]]) -> dict[str, dict[str, float | int]]:
        keys = [source.key for source in self._task.sources]
        if not keys:
            return {}
        done = self._place.ledger.finished("validity")
        if done is None:
            masks, missing = {}, {}
            for key in keys:
                mask, absent = self._mask(key)
                masks[key] = mask
                shares = {
                    name: round(float((mask == value).mean()), 6)
                    for name, value in (("observed", OBSERVED), ("filled", FILLED), ("absent", ABSENT))
                }
                missing[key] = {**shares, "absent_windows": absent}
            write_validity(self._place.result / VALIDITY, self._layout.grid, keys, _rows_at_10m(masks), self._tags)
            done = self._place.ledger.record("validity", [self._place.result / VALIDITY], missing=missing)
        files.append({"file": VALIDITY, "modality": None, "kind": "validity", "sample": None})
        return done["missing"]

    def _mask(self, key: str) -> tuple[NDArray[np.uint8], int]:
        layout = self._layout
        path = self._place.root / f"validity-{key}.npy"
        mask = np.zeros(layout.grid.shape(get(key).resolution), np.uint8)
        columns, absent = len(layout.starts[1]), 0
        for row in range(len(layout.starts[0])):
            known = known_rows(self._place, "scene", key, layout, row)
            mark(mask, layout, key, range(row * columns, (row + 1) * columns), known)
            absent += int(np.count_nonzero(~known.any(axis=(1, 2))))
        # To a file, since those of all conditions are many bytes together.
        save_array(path, mask)
        return open_array(path), absent

    def _grid(self) -> dict[str, Any]:
        grid = self._layout.grid
        return {
            "crs": grid.crs.to_string(),
            "bounds": list(grid.bounds),
            "first_cell": list(grid.first_cell),
            "overlap": self._layout.overlap,
            "windows": len(self._layout.windows),
        }

    def _finish(self, result: dict[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
        folder, grid = self._place.result, self._layout.grid
        looks = {source.key: look_at(self._place, "scene", source.key, self._layout) for source in self._task.sources}
        files = files + write_pictures(folder, grid, files, looks)
        hashed = [{**entry, "sha256": sha256(folder / entry["file"])} for entry in files]
        result = {**result, "files": hashed}
        write_item(folder, grid, hashed, result)
        write_page(folder, grid, hashed, result)
        (folder / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return result


def _spell_scalars(drawn: Sequence[Mapping[str, Floats]]) -> dict[str, Any]:
    """Place (a list of windows for each sample) and date (one for each sample), where they were generated."""

    def physical(key: str, latents: Floats) -> NDArray[Any]:
        return transforms.to_physical(key, np.reshape(latents, (-1, 1, 1, 3)))

    return {
        "place": [degrees(physical(PLACE, latents[PLACE])) for latents in drawn] if PLACE in drawn[0] else None,
        "date": days(np.concatenate([physical(DATE, latents[DATE]) for latents in drawn]))
        if DATE in drawn[0]
        else None,
    }


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return round(sum(known) / len(known), 4) if known else None


def _rows_at_10m(masks: dict[str, NDArray[np.uint8]]) -> Callable[[int, int], NDArray[np.uint8]]:
    """A function from a first and an end row at 10 m to all masks there, (keys, rows, W)."""

    def rows(first: int, end: int) -> NDArray[np.uint8]:
        parts = []
        for key, mask in masks.items():
            times = get(key).resolution // 10
            part = mask[first // times : -(-end // times)].repeat(times, axis=0).repeat(times, axis=1)
            parts.append(part[first % times : first % times + end - first])
        return np.stack(parts)

    return rows
