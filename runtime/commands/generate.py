"""``copgen-edge generate``: conditions in, georeferenced samples out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import RequestError
from ..generation import QUICKLOOK, RESULT, Request, generate_folder
from ..pipeline import DEFAULT_BATCH, Pipeline
from ..raster.conditions import ReadOptions
from ..raster.radiometry import S2Offset
from ..scalars import parse_place
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


class Place(click.ParamType):
    """``lat,lon``."""

    name = "LAT,LON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_place(value)
        except RequestError as error:
            self.fail(str(error), param, ctx)


class Pixel(click.ParamType):
    """``col,row``."""

    name = "COL,ROW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        column, _, row = value.partition(",")
        try:
            return whole_number(column), whole_number(row)
        except ValueError:
            self.fail(f"found {value!r}, expected two whole numbers such as 438,438", param, ctx)


@click.command("generate")
@bundle_argument
@click.option(
    "-c",
    "--condition",
    "conditions",
    type=Pair(),
    multiple=True,
    help="What is known, again for each: NAME is a modality key or family (DEM, LULC, S1RTC, S2L1C, S2L2A, cloud_mask, "
    "place, date); VALUE a raster, a folder of bands, lat,lon (or auto: the window's middle) or YYYY-MM-DD.",
)
@click.option(
    "-g", "--generate", "outputs", type=CommaList(), required=True, help="What to generate, keys or families."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--steps", type=int, help=f"Network calls; the bundle's default, usually {DEFAULT_STEPS}.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--solver", type=click.Choice(list(SOLVERS)), help=f"The bundle's default, usually {DEFAULT_SOLVER}.")
@click.option("--center", type=Place(), help="Middle of the 1920 m window; without it, the middle of the raster.")
@click.option("--window", type=Pixel(), help="Upper-left pixel of the window in the reference raster.")
@click.option(
    "--bands", type=Pair(), multiple=True, help="Bands of a condition's file in its order: S2L2A=B02,B03,B04,B08,..."
)
@click.option("--s1-scale", type=click.Choice(["auto", "db", "linear"]), default="auto", show_default=True)
@click.option("--lulc-map", type=CodeMap(), help="Replace land cover codes, for example 3:4,4:5.")
@s2_offset_option
@click.option("--fill-nodata", is_flag=True, help="Fill missing pixels of a condition instead of refusing them.")
@backend_options
@threads_option
@click.option("--batch", type=click.IntRange(min=1), default=DEFAULT_BATCH, show_default=True, help="Rows a call.")
@click.option("--low-memory", is_flag=True, help="Hold one component at a time.")
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
    center: tuple[float, float] | None,
    window: tuple[int, int] | None,
    bands: tuple[tuple[str, str], ...],
    s1_scale: str,
    lulc_map: dict[int, int] | None,
    s2_offset: S2Offset,
    fill_nodata: bool,
    backend: str,
    precision: str,
    max_drift: float | None,
    no_cuda_graph: bool,
    threads: int,
    batch: int,
    low_memory: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Generate modalities that are missing from those that are known, for one window of 1.92 km.

    \b
    copgen-edge generate BUNDLE -c DEM=dem.tif -c LULC=lulc.tif -c place=auto -c date=2023-07-14 \\
        -g S2L2A,S1RTC --samples 4 --out out
    """
    options = ReadOptions(
        center=center,
        pixel=window,
        bands={name: CommaList().convert(value, None, None) for name, value in bands},
        s1_scale=s1_scale,  # type: ignore[arg-type]
        lulc_map=lulc_map,
        s2_offset=s2_offset,
        fill_nodata=fill_nodata,
    )
    request = Request(conditions, outputs, out, samples, steps, seed, solver, options)
    tell = say(quiet)
    pipeline = Pipeline.load(
        bundle,
        backend=backend,
        precision=precision,
        max_drift=max_drift,
        low_memory=low_memory,
        batch=batch,
        threads=threads,
        cuda_graph=not no_cuda_graph,
    )
    with progress_bar(quiet) as progress:
        result = generate_folder(pipeline, request, progress=progress, say=tell)
    rasters = sum(entry["kind"] != "quicklook" for entry in result["files"])
    tell(f"wrote {rasters} rasters, {QUICKLOOK} and {RESULT} to {out}")
    if as_json:
        emit(result)
