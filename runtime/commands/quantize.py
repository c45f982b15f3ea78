"""``copgen-edge quantize``: the variant of a plan, written into a bundle and measured on unseen runs."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from ..bundle import Bundle
from .common import bundle_argument, emit, json_option, need, progress_bar, quiet_option, say, threads_option
from .tables import print_table


@click.command("quantize")
@bundle_argument
@click.option("--plan", type=click.Path(path_type=Path), required=True, help="What 'calibrate plan' wrote.")
@click.option(
    "--calib", type=click.Path(path_type=Path), required=True, help="The recording that the plan was made on."
)
@click.option(
    "--replays",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Whole runs, unseen by the plan, on which it is confirmed; 0 confirms single calls alone.",
)
@click.option("--overwrite", is_flag=True, help="Replace the same precision where the bundle has it.")
@threads_option
@json_option
@quiet_option
def command(
    bundle: str, plan: Path, calib: Path, replays: int, overwrite: bool, threads: int, as_json: bool, quiet: bool
) -> None:
    """Write the quantised component of a plan into BUNDLE, with what it costs on runs that the plan has not seen.

    Where those drift further than the plan's budget, nothing is written (exit code 2).
    """
    tell = say(quiet)
    decided = need("calibration.plan").Plan.load(plan)
    recorded = need("calibration.trajectories").Trajectories.open(calib)
    with progress_bar(quiet) as progress:
        variant = need("calibration.quantise").quantise(
            Bundle.open(bundle), decided, recorded,
            replays=replays, overwrite=overwrite, threads=threads, progress=progress,
        )  # fmt: skip
    found = variant.calibration
    if as_json:
        emit({"bundle": bundle, "component": decided.component, "precision": decided.precision, **asdict(variant)})
    if not quiet:
        rows = [
            (key, f"{one['fp32']:.4f}", f"{one['seeds']:.4f}") for key, one in sorted(found["distribution"].items())
        ]
        if rows:
            columns = ("modality", "from fp32", "of two seeds")
            print_table("Wasserstein distance of the latents, in their standard deviations", columns, rows)
    if found["run_drift"] is not None:
        tell(
            f"whole runs drift by {found['run_drift']:.3g} (relative L2), two seeds of fp32 differ by "
            f"{found['seeds_drift']:.3g}; a call takes {found['time']:.2f} of the time of fp32 on this CPU"
        )
    size = sum(record.bytes for record in variant.files) / 1e6
    tell(f"wrote {decided.component} in {decided.precision} to {bundle}: {size:.1f} MB")
    asked = decided.precision.removesuffix("-qdq")
    verb = "build" if asked != decided.precision else "generate"
    tell(f"next: copgen-edge verify {shlex.quote(bundle)}, and copgen-edge {verb} ... --precision {asked}")
