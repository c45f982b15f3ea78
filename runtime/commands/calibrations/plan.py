"""``copgen-edge calibrate plan``: a form for each group of layers, under a budget."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from ...errors import RequestError
from ..common import CommaList, emit, json_option, need, quiet_option, say
from ..tables import print_table
from .sensitivity import REPORT


@click.command("plan")
@click.argument("sensitivity", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    required=True,
    metavar="LIMIT",
    help="drift<=0.05 (relative L2 of whole runs), size<=100 (MB) or time<=0.5 (of the base's).",
)
@click.option("--forms", type=CommaList(), help="Choose from these forms alone.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@json_option
@quiet_option
def command(
    sensitivity: Path, budget: str, forms: tuple[str, ...] | None, out: Path, as_json: bool, quiet: bool
) -> None:
    """Choose a form for each group of layers from SENSITIVITY, the folder that 'calibrate sensitivity' made.

    With a drift to keep it takes the least time (the least size for TensorRT, whose time a CPU cannot tell), with a
    size or a time to keep the least drift.
    """
    room, measured = need("calibration.plan"), need("calibration.sensitivity")
    if out.exists():
        raise RequestError(f"{out} is there already; name a new file, or remove it first")
    path = sensitivity / REPORT if sensitivity.is_dir() else sensitivity
    found = measured.Sensitivity.from_dict(room.read_json(path))
    plan = room.make_plan(found, room.Budget.parse(budget), forms=forms)
    plan.save(out)
    if as_json:
        emit(asdict(plan))
    if not quiet:
        print_table(
            f"Plan for {plan.component} in {plan.precision}", ("group", "form"), plan.groups.items(), text_columns=2
        )
    tell = say(quiet)
    time = "" if plan.time is None else f", {plan.time:.2f} of the base's time a call"
    tell(f"expected: drift {plan.drift:.3g}, {plan.megabytes:.1f} MB{time}")
    tell(f"next: copgen-edge quantize BUNDLE --plan {shlex.quote(str(out))} --calib CALIB")
