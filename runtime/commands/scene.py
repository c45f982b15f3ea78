"""``copgen-edge scene``: products of any size in, one consistent draw with its uncertainty out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..folders import require_new
from ..pipeline import DEFAULT_BATCH, Pipeline
from ..provenance import engine_notes
from ..raster.conditions import ReadOptions
from ..raster.radiometry import S2Offset
from ..scene.estimate import estimate
from ..scene.grid import STRIDES
from ..scene.request import SceneRequest, prepare
from ..scene.run import generate_scene_folder
from ..solver import DEFAULT_SOLVER, DEFAULT_STEPS, SOLVERS
from .common import (
    CodeMap,
    CommaList,
    Pair,
    backend_options,
    bundle_argument,
    emit,
    json_option,
    progress_bar,
    quiet_option,
    s2_offset_option,
    say,
    threads_option,
    whole_number,
)


class Box(click.ParamType):
    """``west,south,east,north``."""

    name = "W,S,E,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            west, south, east, north = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"found {value!r}, expected west,south,east,north in degrees", param, ctx)
        return west, south, east, north


class Cell(click.ParamType):
    """``row,column``."""

    name = "ROW,COLUMN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        row, _, column = value.partition(",")
        try:
            return whole_number(row), whole_number(column)
        except ValueError:
            self.fail(f"found {value!r}, expected two whole numbers such as 0,12", param, ctx)


@click.command("scene")
@bundle_argument
@click.option(
    "-c",
    "--condition",
    "conditions",
    type=Pair(),
    multiple=True,
    help="What is known, again for each: NAME is a modality key or family; VALUE a raster, a folder of bands, a .SAFE, "
    "a STAC item or collection, a Major TOM cell, YYYY-MM-DD, or auto (place: each window's middle; date: when the "
    "inputs were sensed). The same NAME again makes a mosaic.",
)
@click.option(
    "-g", "--generate", "outputs", type=CommaList(), required=True, help="What to generate, keys or families."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--steps", type=int, help=f"Network calls; the bundle's default, usually {DEFAULT_STEPS}.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--solver", type=click.Choice(list(SOLVERS)), help=f"The bundle's default, usually {DEFAULT_SOLVER}.")
@click.option(
    "--overlap",
    type=click.Choice([str(overlap) for overlap in STRIDES]),
    default="25",
    show_default=True,
    help="Percent of a window's side that it shares with the next.",
)
@click.option("--bbox", type=Box(), help="The scene in degrees; without it and --geometry, where all inputs overlap.")
@click.option("--geometry", type=click.Path(path_type=Path), help="The scene as the bounds of a GeoJSON file.")
@click.option(
    "--first-cell",
    type=Cell(),
    default="0,0",
    show_default=True,
    help="Which 480 m cell of a larger scene the upper-left one is, so that its parts share their noise.",
)
@click.option(
    "--bands", type=Pair(), multiple=True, help="Bands of a condition's file in its order: S2L2A=B02,B03,B04,B08,..."
)
@click.option("--s1-scale", type=click.Choice(["auto", "db", "linear"]), default="auto", show_default=True)
@click.option("--lulc-map", type=CodeMap(), help="Replace land cover codes, for example 3:4,4:5.")
@s2_offset_option
@click.option("--keep-samples", is_flag=True, help="Write every sample, and not their statistics alone.")
@click.option("--compare-tiling", is_flag=True, help="Draw once more window by window, to compare the seams.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and what it would take, and do nothing.")
@backend_options
@threads_option
@click.option("--batch", type=click.IntRange(min=1), default=DEFAULT_BATCH, show_default=True, help="Windows a call.")
@quiet_option
@json_option
def command(
    bundle: str,
    conditions: tuple[tuple[str, str], ...],
    outputs: tuple[str, ...],
    out: Path,
    samples: int,
    steps: int | None,
    seed: int,
    solver: str | None,
    overlap: str,
    bbox: tuple[float, float, float, float] | None,
    geometry: Path | None,
    first_cell: tuple[int, int],
    bands: tuple[tuple[str, str], ...],
    s1_scale: str,
    lulc_map: dict[int, int] | None,
    s2_offset: S2Offset,
    keep_samples: bool,
    compare_tiling: bool,
    dry_run: bool,
    backend: str,
    precision: str,
    max_drift: float | None,
    no_cuda_graph: bool,
    threads: int,
    batch: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Generate modalities for a scene of any size, as one draw without seams, with its statistics as COGs.

    A run that was stopped goes on where it was when the same command is given again.

    \b
    copgen-edge scene BUNDLE -c S2L1C=S2B_MSIL1C_20230714.SAFE -c DEM=dem.tif -c place=auto -c date=auto \\
        -g S2L2A,cloud_mask --samples 4 --out out
    """
    options = ReadOptions(
        bands={name: CommaList().convert(value, None, None) for name, value in bands},
        s1_scale=s1_scale,  # type: ignore[arg-type]
        lulc_map=lulc_map,
        s2_offset=s2_offset,
    )
    request = SceneRequest(
        conditions,
        outputs,
        out,
        samples,
        steps,
        seed,
        solver,
        int(overlap),
        bbox,
        geometry,
        first_cell,
        keep_samples,
        compare_tiling,
        options,
    )
    tell = say(quiet)
    pipeline = Pipeline.load(
        bundle,
        backend=backend,
        precision=precision,
        max_drift=max_drift,
        batch=batch,
        threads=threads,
        cuda_graph=not no_cuda_graph,
    )
    task = prepare(pipeline, request)
    expected = estimate(pipeline, task)
    for line in (*engine_notes(pipeline), *task.lines(), *expected.lines()):
        tell(line)
    if dry_run:
        require_new(out)
        if as_json:
            emit({"plan": task.lines(), **expected.as_json()})
        return
    with progress_bar(quiet) as progress:
        result = generate_scene_folder(pipeline, task, progress=progress)
    tell(f"wrote {len(result['files'])} files and index.html to {out}")
    if as_json:
        emit(result)
