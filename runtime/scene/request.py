"""What a user asks of a scene, and what all of it comes down to: the layout, the plan, and the fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import RasterError, RequestError
from ..modalities import get, resolve
from ..noise import check_seed
from ..pipeline import Pipeline
from ..provenance import GivenFiles
from ..raster.conditions import ReadOptions
from ..raster.products import Products, find_products
from ..scalars import parse_date
from ..solver import Plan
from .area import choose_grid
from .draw import DATE, PLACE, Layout
from .encode import Source

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneRequest:
    """What a user asks for: ``conditions`` as (NAME, VALUE) typed, ``outputs`` as names, both keys or families.

    ``bbox`` is west, south, east, north in degrees, ``geometry`` a GeoJSON file; without both, the scene is where all
    inputs overlap. ``first_cell`` is what the scene's upper-left cell is called in the noise's lattice.
    """

    conditions: Sequence[tuple[str, str]]
    outputs: Sequence[str]
    out: Path
    samples: int = 1
    steps: int | None = None
    seed: int = 0
    solver: str | None = None
    overlap: int = 25
    bbox: Bounds | None = None
    geometry: Path | None = None
    first_cell: tuple[int, int] = (0, 0)
    keep_samples: bool = False
    compare_tiling: bool = False
    options: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class SceneTask:
    """A request with all choices made. ``date`` is year, month, day where it is a condition, and ``place`` whether the
    place is one."""

    request: SceneRequest
    layout: Layout
    plan: Plan
    sources: tuple[Source, ...]
    date: tuple[int, int, int] | None
    place: bool
    files: GivenFiles
    stamps: Mapping[Path, tuple[int, int]]
    notes: tuple[str, ...]

    def require_unchanged(self, key: str) -> None:
        """Raise :class:`RasterError` where a file of the condition ``key`` is not what it was when the task was
        made: its digest would tell of another."""
        for path in self.files[key][1]:
            if _stamp(path) != self.stamps[path]:
                raise RasterError(f"{path} was changed while the scene was made; run the same request again")

    def lines(self) -> list[str]:
        """Every choice that was made, a sentence each."""
        grid, bounds = self.layout.grid, self.layout.grid.bounds
        rows, columns = (len(starts) for starts in self.layout.starts)
        return [
            *self.notes,
            f"scene: {grid.width} x {grid.height} m of {grid.crs.to_string()}, "
            f"{bounds.left:.10g}..{bounds.right:.10g}, {bounds.bottom:.10g}..{bounds.top:.10g}",
            f"windows: {rows} x {columns} of 1920 m, {self.layout.overlap} % overlap, denoised together",
            f"solver: {self.plan.solver}, {len(self.plan)} steps, {self.request.samples} samples from seed "
            f"{self.request.seed}",
            f"generates: {', '.join(self.layout.outputs)}",
        ]


def prepare(pipeline: Pipeline, request: SceneRequest) -> SceneTask:
    """Make every choice of ``request`` that needs no network call.

    Raises :class:`RequestError` for what cannot be meant or met, :class:`RasterError` for a raster that cannot serve,
    and :class:`BundleError` or :class:`BackendError` where the bundle lacks a component.
    """
    outputs = resolve(request.outputs)
    if not outputs:
        raise RequestError("nothing to generate: name at least one output modality")
    if request.samples < 1:
        raise RequestError(f"found {request.samples} samples, expected 1 or more")
    check_seed(request.seed)
    plan = pipeline.plan(request.solver, request.steps)
    named = [(resolve([name]), name, value) for name, value in request.conditions]
    for keys, _, _ in named:
        if both := [key for key in keys if key in outputs]:
            raise RequestError(f"{', '.join(both)} is both given and asked for; leave it out of one of the two")
    pipeline.check_request([key for keys, _, _ in named for key in keys], outputs)
    products = find_products([(name, value) for keys, name, value in named if get(keys[0]).is_image], request.options)
    scalars = [(keys[0], value) for keys, _, value in named if not get(keys[0]).is_image]
    if len({key for key, _ in scalars}) < len(scalars):
        raise RequestError("place or date is given twice; leave one out")
    given = dict(scalars)
    if PLACE in given and given[PLACE].strip() != "auto":
        raise RequestError(f"found place={given[PLACE]}, expected place=auto: in a scene the place follows each window")
    date, said = _date(given.get(DATE), products)
    grid, chosen = choose_grid(products.sources, bbox=request.bbox, geometry=request.geometry)
    layout = Layout(replace(grid, first_cell=request.first_cell), request.overlap, outputs)
    layout.windows  # noqa: B018  refuses an overlap that is none before any work
    typed: dict[str, list[str]] = {}
    for keys, name, value in named:
        for key in keys:
            typed.setdefault(key, []).append(f"{name}={value}")
    files = {key: (" ".join(pairs), products.files.get(key, ())) for key, pairs in typed.items()}
    stamps = {path: _stamp(path) for _, paths in files.values() for path in paths}
    notes = (*products.notes, *chosen, *said)
    return SceneTask(request, layout, plan, products.sources, date, PLACE in given, files, stamps, notes)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; a file that is gone has none."""
    try:
        there = path.stat()
    except OSError:
        return 0, 0
    return there.st_size, there.st_mtime_ns


def _date(value: str | None, products: Products) -> tuple[tuple[int, int, int] | None, list[str]]:
    if value is None:
        return None, []
    if value.strip() != "auto":
        return parse_date(value), []
    if products.date is None:
        raise RequestError("date=auto, but no input tells its sensing date; give it as YYYY-MM-DD")
    year, month, day = products.date
    return products.date, [f"date: {year:04d}-{month:02d}-{day:02d}, when the inputs were sensed"]


def fingerprint(pipeline: Pipeline, task: SceneTask, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """All that determines the result, as plain JSON. ``provenance`` is :func:`describe_run`'s."""
    request, grid = task.request, task.layout.grid
    runs = provenance["backend"]
    return {
        "copgen_edge": provenance["copgen_edge"],
        "bundle": provenance["bundle"]["manifest_sha256"],
        "backend": {name: runs[name] for name in ("backend", "device", "precision")},
        "batch": pipeline.batch,
        "solver": [task.plan.solver, len(task.plan)],
        "seed": request.seed,
        "samples": request.samples,
        "outputs": list(task.layout.outputs),
        "overlap": request.overlap,
        "grid": {
            "crs": grid.crs.to_string(),
            "bounds": list(grid.bounds),
            "first_cell": list(grid.first_cell),
        },
        "conditions": {
            key: [file["sha256"] for file in entry["files"]] for key, entry in provenance["conditions"].items()
        },
        "date": task.date,
        "place": task.place,
        "keep_samples": request.keep_samples,
        "compare_tiling": request.compare_tiling,
        "reading": {
            "bands": {name: list(bands) for name, bands in request.options.bands.items()},
            "s1_scale": request.options.s1_scale,
            "s2_offset": request.options.s2_offset,
            "lulc_map": {str(old): new for old, new in (request.options.lulc_map or {}).items()},
        },
    }
