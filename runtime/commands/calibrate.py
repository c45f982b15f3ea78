"""``copgen-edge calibrate``: what each precision costs, and where, measured along real runs."""

from __future__ import annotations

import click

from .lazy import LazyGroup

STEPS = {
    "record": "Record real inputs of every component along real runs.",
    "halves": "Measure activations and say what must stay in float32.",
    "sensitivity": "Measure what each group of layers costs at each precision.",
    "plan": "Choose a precision for each group of layers under a budget.",
}


@click.group("calibrate", cls=LazyGroup, verbs=STEPS, package=f"{__package__}.calibrations", title="Steps")
def command() -> None:
    """Decide precision by measurement: record, look at the halves, measure the sensitivity, plan; then 'quantize'."""
