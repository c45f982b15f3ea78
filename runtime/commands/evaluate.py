"""``copgen-edge evaluate``: how good the samples are, and whether a faster engine still draws from the same
distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..bundle import MANIFEST
from ..errors import RequestError
from ..evaluation.folder import PAGE, REPORT, Baseline, Request, evaluate_folder
from ..evaluation.report import (
    DRIFT_COLUMNS,
    NARROWING_COLUMNS,
    SCORE_COLUMNS,
    SPECTRA_COLUMNS,
    drift_rows,
    narrowing_rows,
    score_rows,
    spectra_rows,
)
from ..evaluation.runs import RUN_FILE, Run
from ..evaluation.truth import Truth, read_cells
from ..modalities import get, resolve
from ..pipeline import DEFAULT_BATCH, Pipeline
from ..precision import WANTED
from ..raster.conditions import ReadOptions
from ..raster.radiometry import S2Offset
from .common import (
    CommaList,
    backend_options,
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
from .tables import print_table

DEFAULT_PATCHES = 16
DEFAULT_SAMPLES = 8


@click.command("evaluate")
@bundle_argument
@click.option(
    "--world",
    type=click.IntRange(1),
    help=f"The truth: so many patches of the made-up world, held out from training.  [default: {DEFAULT_PATCHES}]",
)
@cells_options("The truth")
@click.option(
    "--given",
    type=CommaList(),
    default="DEM,LULC,place,date",
    show_default=True,
    help="The conditions, keys or families; '' for none.",
)
@click.option(
    "-g",
    "--generate",
    "outputs",
    type=CommaList(),
    default="S1RTC,S2L1C,S2L2A,cloud_mask",
    show_default=True,
    help="What to draw, keys or families.",
)
@click.option(
    "-n",
    "--samples",
    type=click.IntRange(1),
    default=DEFAULT_SAMPLES,
    show_default=True,
    help="Draws of each patch; about 2 MB of memory each.",
)
@click.option(
    "--redraws",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="True draws of each world patch under other weather, against which its samples are held; 6 or more.",
)
@click.option("--steps", type=click.IntRange(1), help="Network calls; the bundle's own by default.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="What to compare with: a bundle, BUNDLE's checkpoint (in PyTorch), or a report that kept its run.",
)
@click.option(
    "--baseline-precision",
    type=click.Choice(WANTED),
    default="auto",
    show_default=True,
    help="Of a bundle.",
)
@click.option("--baseline-steps", type=click.IntRange(1), help="Network calls of the baseline; as --steps by default.")
@click.option(
    "--narrowing",
    metavar="FAMILY",
    help="Add the conditions one by one, and watch the samples of FAMILY, drawn in place of --generate, tighten.",
)
@click.option("--keep-run", is_flag=True, help=f"Keep what was drawn, as {RUN_FILE}, for a later --baseline.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--batch", type=click.IntRange(1), default=DEFAULT_BATCH, show_default=True, help="Rows a call.")
@backend_options
@threads_option
@json_option
@quiet_option
def command(
    bundle: str,
    world: int | None,
    cells: Path | None,
    given: tuple[str, ...],
    outputs: tuple[str, ...],
    samples: int,
    redraws: int,
    steps: int | None,
    seed: int,
    baseline: Path | None,
    baseline_precision: str,
    baseline_steps: int | None,
    narrowing: str | None,
    keep_run: bool,
    lulc_map: Mapping[int, int] | None,
    s2_offset: S2Offset,
    fill_nodata: bool,
    out: Path,
    batch: int,
    backend: str,
    precision: str,
    max_drift: float | None,
    no_cuda_graph: bool,
    threads: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge the samples of BUNDLE against the truth, and against a baseline drawn with the same noise.

    Prints tables, and makes a folder with report.html, report.json and the pictures.

    \b
    evaluate bundle --given S2L1C --generate S2L2A --out report
    evaluate bundle --precision fp16 --baseline bundle --baseline-precision fp32 --out drift
    evaluate bundle --given DEM,LULC,S1RTC,date,place,S2L1C --narrowing S2L2A --out narrowing
    """
    tell = say(quiet)
    if cells is not None and (world is not None or redraws):
        raise RequestError("give --world (and --redraws of it) or --cells, not both: each is a truth")
    if baseline is None and baseline_steps is not None:
        raise RequestError("--baseline-steps are those of a baseline; give it with --baseline, or leave them out")
    load = partial(Pipeline.load, backend=backend, batch=batch, threads=threads, cuda_graph=not no_cuda_graph)
    pipeline = load(bundle, precision=precision, max_drift=max_drift)
    if cells is not None:
        options = ReadOptions(lulc_map=lulc_map, s2_offset=s2_offset, fill_nodata=fill_nodata)
        truth: Truth = read_cells(cells, options)
    else:
        tell(f"the truth: {world or DEFAULT_PATCHES} held-out patches of the made-up world")
        truth = need("copgen_ref.world_truth").world_truth(world or DEFAULT_PATCHES, resolve(given), redraws=redraws)
        if redraws and truth.draws is None:
            tell(f"no redraws: {', '.join(given)} leave no weather open; the benchmark takes all patches together")
    against = None
    if baseline is not None:
        against = _baseline(pipeline, baseline, baseline_precision, baseline_steps or steps, load, batch)
    request = Request(
        out, given, (narrowing,) if narrowing else outputs, samples, steps, seed, narrowing=narrowing, keep_run=keep_run
    )
    with progress_bar(quiet) as progress:
        found = evaluate_folder(pipeline, truth, request, baseline=against, progress=progress, say=tell)
    if as_json:
        emit(found)
    if not quiet:
        _tables(found)
    tell(f"report: {out / PAGE}")


def _baseline(
    pipeline: Pipeline, path: Path, precision: str, steps: int | None, load: Callable[..., Pipeline], batch: int
) -> Baseline:
    if not path.exists():
        raise RequestError(
            f"--baseline {path} does not exist; give a bundle, a checkpoint, or a report that kept its run"
        )
    if path.is_file() or (path / RUN_FILE).is_file():
        return Baseline(str(path), run=Run.load(path if path.is_file() else path / RUN_FILE))
    if (path / MANIFEST).is_file():
        other = load(path, precision=precision)
        return Baseline(f"{path} in {other.backend.precision}", other, steps)
    if (path / REPORT).is_file():
        raise RequestError(f"--baseline {path} is a report without {RUN_FILE}; make it again with --keep-run")
    bundle = pipeline.bundle
    files = need("copgen_ref.files").find_checkpoint(path)
    # The pipeline scales by the bundle's factors: it would misread the latents of another checkpoint in silence.
    for key, ours in bundle.scale_factors.items():
        theirs = files.scale_factors.get(key, get(key).scale_factor)
        if theirs != ours:
            raise RequestError(
                f"--baseline {path} scales the latent of {key} by {theirs}, {bundle.root} by {ours}: it is another "
                "model; export it, and give that bundle"
            )
    reference = need("export.reference_backend").ReferenceBackend(files.with_heads(bundle.manifest.model.get("heads")))
    return Baseline(f"{path} in PyTorch", Pipeline(bundle, reference, batch=batch), steps)


def _tables(found: Mapping[str, Any]) -> None:
    if "truth" in found:
        print_table("Against the truth", SCORE_COLUMNS, score_rows(found["truth"]), text_columns=2)
        if found["truth"]["spectra"]:
            print_table("Stochastic benchmark", SPECTRA_COLUMNS, spectra_rows(found["truth"]), text_columns=2)
    if "baseline" in found:
        print_table(f"Against {found['baseline']['name']}", DRIFT_COLUMNS, drift_rows(found["baseline"]))
    if "narrowing" in found:
        narrowed = found["narrowing"]
        title = f"Narrowing of {narrowed['family']}, in {narrowed['units']}"
        print_table(title, NARROWING_COLUMNS, narrowing_rows(narrowed["stages"]))
