"""``copgen-edge calibrate record``: real inputs of every component along real runs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ...backends import BACKENDS
from ...components import COMPONENTS
from ...errors import RequestError
from ...evaluation.truth import Truth, read_cells
from ...pipeline import Pipeline
from ...raster.conditions import ReadOptions
from ...raster.radiometry import S2Offset
from ..common import (
    bundle_argument,
    cells_options,
    emit,
    json_option,
    need,
    progress_bar,
    quiet_option,
    say,
    threads_option,
)
from ..tables import print_table

DEFAULT_PATCHES = 8
DEFAULT_MB = 256
FIRST_PATCH = 600_000_000
"""Seed of the first made-up patch: neither training nor 'evaluate' takes patches from here on."""


@click.command("record")
@bundle_argument
@click.option(
    "--world",
    type=click.IntRange(1),
    help=f"The data: so many patches of the made-up world, seen by nothing else.  [default: {DEFAULT_PATCHES}]",
)
@cells_options("The data")
@click.option("--runs", type=click.IntRange(1), help="Runs, each with roles of its own; one a patch by default.")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True, help="Draws of each run.")
@click.option("--steps", type=click.IntRange(1), help="Network calls; the bundle's own by default.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the roles and the noise.")
@click.option(
    "--max-mb",
    type=click.IntRange(1),
    default=DEFAULT_MB,
    show_default=True,
    help="Size of the recording at most, in 10^6 bytes; network calls are left out to keep it.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@threads_option
@json_option
@quiet_option
def command(
    bundle: str,
    world: int | None,
    cells: Path | None,
    lulc_map: Mapping[int, int] | None,
    s2_offset: S2Offset,
    fill_nodata: bool,
    runs: int | None,
    samples: int,
    steps: int | None,
    seed: int,
    max_mb: int,
    out: Path,
    backend: str,
    threads: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Record what the components of BUNDLE, in fp32, are given along real runs: what calibration measures on.

    The first run is given elevation, land cover, place and date; in the others every modality is given, generated and
    absent in turn. A recording that was stopped goes on when the same command is given again.

    \b
    copgen-edge calibrate record BUNDLE --world 8 --out CALIB
    copgen-edge calibrate record BUNDLE --cells CELLS --lulc-map 3:4,4:5 --out CALIB
    """
    tell = say(quiet)
    if cells is not None and world is not None:
        raise RequestError("give --world or --cells, not both: each is the data")
    recording = need("calibration.record")
    pipeline = Pipeline.load(bundle, backend=backend, precision="fp32", threads=threads, cuda_graph=False)
    if cells is not None:
        truth = read_cells(cells, ReadOptions(lulc_map=lulc_map, s2_offset=s2_offset, fill_nodata=fill_nodata))
    else:
        truth = _world(world or DEFAULT_PATCHES)
        tell(f"the data: {len(truth)} patches of the made-up world")
    with progress_bar(quiet) as progress:
        found = recording.record(
            pipeline, truth, out,
            runs=runs, samples=samples, steps=steps, seed=seed, max_mb=max_mb, progress=progress, say=tell,
        )  # fmt: skip
    summary = _summary(found, out)
    if as_json:
        emit(summary)
    if not quiet:
        rows = [(one["component"], str(one["rows"]), f"{one['bytes'] / 1e6:.1f}") for one in summary["components"]]
        total = str(sum(one["rows"] for one in summary["components"])), f"{summary['bytes'] / 1e6:.1f}"
        print_table(
            f"{len(found.runs)} runs of {found.steps} calls", ("component", "rows", "MB"), [*rows, ("", *total)]
        )
    tell(f"next: copgen-edge calibrate sensitivity {shlex.quote(bundle)} --calib {shlex.quote(str(out))}")


def _world(count: int) -> Truth:
    truth: Truth = need("copgen_ref.world_truth").world_truth(count, (), first=FIRST_PATCH)
    return truth


def _summary(found: Any, out: Path) -> dict[str, Any]:
    row_bytes = need("calibration.strata").row_bytes
    rows = Counter(entry.component for run in found.runs for entry in run.entries)
    return {
        "recording": str(out),
        "sha256": found.digest,
        "bundle_sha256": found.bundle,
        "solver": found.solver,
        "steps": found.steps,
        "runs": [{"source": run.source, "seed": run.seed, "roles": dict(run.roles)} for run in found.runs],
        "components": [
            {"component": name, "rows": rows[name], "bytes": rows[name] * row_bytes(name)}
            for name in COMPONENTS
            if rows[name]
        ],
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
    }
