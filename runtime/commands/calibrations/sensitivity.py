"""``copgen-edge calibrate sensitivity``: what each group of layers costs at each form."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from ...bundle import QUANTISED, Bundle
from ...components import COMPONENTS, STEP
from ...evaluation.regression import metric_units
from ...folders import new_folder
from ...modalities import get
from ..common import (
    CommaList,
    bundle_argument,
    emit,
    json_option,
    need,
    progress_bar,
    quiet_option,
    say,
    threads_option,
)
from ..tables import print_table

REPORT, CHART = "sensitivity.json", "sensitivity.png"


@click.command("sensitivity")
@bundle_argument
@click.option("--calib", type=click.Path(path_type=Path), required=True, help="What 'calibrate record' made.")
@click.option("--precision", type=click.Choice(list(QUANTISED)), default="int8", show_default=True)
@click.option("--component", type=click.Choice(COMPONENTS), default=STEP, show_default=True, metavar="NAME")
@click.option(
    "--forms",
    type=CommaList(),
    help="Only these forms of the precision; for a large model, where each takes long.  [default: all of them]",
)
@click.option(
    "--ranges",
    type=click.Choice(["max", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="How ranges of activations follow from what was recorded.",
)
@click.option(
    "--replays",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Whole runs that are repeated for each group; 0 measures single calls alone.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@threads_option
@json_option
@quiet_option
def command(
    bundle: str,
    calib: Path,
    precision: str,
    component: str,
    forms: tuple[str, ...] | None,
    ranges: str,
    replays: int,
    out: Path,
    threads: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what quantising each group of layers of BUNDLE does to single calls and to whole runs, by form and by t.

    The last third of the recorded runs is left for 'quantize' to confirm a plan on.
    """
    tell = say(quiet)
    room = need("calibration.sensitivity")
    opened, recorded = Bundle.open(bundle), need("calibration.trajectories").Trajectories.open(calib)
    with new_folder(out, 1 << 20) as work:
        with progress_bar(quiet) as progress:
            found = room.measure_sensitivity(
                opened, recorded,
                precision=precision, component=component, method=ranges, forms=forms, replays=replays,
                threads=threads, progress=progress,
            )  # fmt: skip
        (work / REPORT).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        (work / CHART).write_bytes(need("calibration.chart").sensitivity_chart(found))
    if as_json:
        emit(found.to_dict())
    if not quiet:
        _table(found)
        if found.seeds is not None:
            tell(f"two seeds of fp32 differ by {found.seeds:.3g} (relative L2 of the latents)")
    tell(f"wrote {REPORT} and {CHART} to {out}")
    tell(f"next: copgen-edge calibrate plan {shlex.quote(str(out))} --budget 'drift<=0.05' --out plan.json")


def _table(found: Any) -> None:
    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    keys = list(dict.fromkeys(key for cost in found.all for key in cost.physical))
    if keys:
        print_table(
            "Decoded values of one run, all layers in the form: mean absolute difference, of codes the share of pixels",
            ("modality", "units", *(cost.form for cost in found.all)),
            [
                (
                    key,
                    "share" if get(key).is_codes else metric_units(key),
                    *(f"{cost.physical[key]:.3g}" for cost in found.all),
                )
                for key in keys
            ],
            text_columns=2,
        )
    drawn = found.all[0].distribution
    if drawn:
        print_table(
            "Distribution of the drawn latents, all layers in the form: Wasserstein-1 distance from fp32's, in its "
            "standard deviations",
            ("modality", *(cost.form for cost in found.all), "another seed"),
            [
                (key, *(f"{cost.distribution[key]['fp32']:.3g}" for cost in found.all), f"{of['seeds']:.3g}")
                for key, of in drawn.items()
            ],
        )
    rows = [
        (
            cost.group,
            cost.form,
            figure(cost.run),
            *(figure(error) for error in cost.call),
            f"{cost.megabytes / found.megabytes:.2f}",
            "" if cost.time is None else f"{cost.time:.2f}",
        )
        for cost in (*found.all, *found.groups)
    ]
    edges = need("calibration.ranges").BAND_EDGES
    calls = [f"t {edges[i]}-{edges[i + 1]}" for i in range(len(found.groups[0].call))]
    print_table(
        f"{found.component} in {found.precision}: relative L2 against fp32 of whole runs and single calls by t; size "
        "and time as shares of the base's",
        ("group", "form", "run", *calls, "size", "time"),
        rows,
        text_columns=2,
    )
