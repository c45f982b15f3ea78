"""``copgen-edge calibrate halves``: which units must stay in float32 for the rest to hold in half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ...bundle import Bundle
from ...folders import whole_file
from ..common import bundle_argument, need, progress_bar, quiet_option, say
from ..tables import print_table


@click.command("halves")
@bundle_argument
@click.option(
    "--calib", type=click.Path(path_type=Path), required=True, help="Trajectories, from 'copgen-edge calibrate record'."
)
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file for the statistics of every tensor.")
@quiet_option
def command(bundle: str, calib: Path, out: Path | None, quiet: bool) -> None:
    """Measure activations over recorded trajectories and put into BUNDLE what must stay in float32 in fp16.

    \b
    copgen-edge calibrate halves bundle --calib trajectories
    copgen-edge export --checkpoint weights --out bundle2 --precision fp32,fp16 --half-plan bundle
    """
    half_plan = need("calibration.half_plan")
    trajectories = need("calibration.trajectories").Trajectories.open(calib)
    opened = Bundle.open(bundle)
    tell = say(quiet)
    with progress_bar(quiet) as bar:
        measured = list(half_plan.measure_bundle(opened, trajectories, bar))
    plan = half_plan.make_plan(opened, trajectories, measured)
    if not quiet:
        _tables(half_plan, measured)
    missing = [name for name in opened.manifest.components if name not in plan.units]
    if missing:
        tell(f"not measured, for want of recorded inputs: {', '.join(missing)}")
    for component, units in plan.needed.items():
        tell(f"{component} keeps in float32: {', '.join(units)}")
    if not plan.needed:
        tell("nothing needs to stay in float32 beyond the normalisations and the timestep embedding")
    if out is not None:
        report = {"trajectories": plan.trajectories, "components": [one.to_dict() for one in measured]}
        with whole_file(out) as partial:
            partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path = half_plan.write_half_plan(opened, plan)
    tell(f"wrote the plan to {path}")


def _tables(half_plan: Any, measured: list[Any]) -> None:
    print_table(
        "Least head-room in half",
        ("component", "unit", "tensor", "max", "p99.99", "head-room", "share > 1e4", "subnormal"),
        (
            (
                statistics.component,
                one.tensor.unit,
                f"{one.tensor.op} {one.tensor.name}",
                f"{one.maximum:.3g}",
                f"{one.percentiles[-1]:.3g}",
                f"{one.head_room:.3g}",
                f"{one.large:.1e}",
                f"{one.subnormal:.1e}",
            )
            for statistics in measured
            for one in half_plan.least_head_room(statistics)
        ),
        text_columns=3,
    )
    print_table(
        "Float32 islands that these inputs need",
        ("component", "norms", "needed", "largest sum of squares", "timestep embedding"),
        (_islands_row(statistics) for statistics in measured),
    )


def _islands_row(statistics: Any) -> tuple[str, ...]:
    norms = [island for island in statistics.islands if island.kind == "norm"]
    embedding = [island for island in statistics.islands if island.kind == "timesteps"]
    return (
        statistics.component,
        str(len(norms)),
        str(sum(island.needed for island in norms)),
        f"{max((island.figure for island in norms), default=0.0):.3g}",
        "".join(f"{'needed' if one.needed else 'not needed'} ({one.figure:.2g} rad)" for one in embedding),
    )
