"""``copgen-edge calibrate``: what each precision costs, and where, measured along real runs."""

from __future__ import annotations

from importlib import import_module

import click

STEPS = {
    "record": "Record real inputs of every component along real runs.",
    "halves": "Measure activations and say what must stay in float32.",
    "sensitivity": "Measure what each group of layers costs at each precision.",
    "plan": "Choose a precision for each group of layers under a budget.",
}


class _Steps(click.Group):
    """Loads a step's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(STEPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in STEPS:
            return None
        command: click.Command = import_module(f".calibrations.{cmd_name}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Steps"):
            formatter.write_dl(list(STEPS.items()))


@click.group("calibrate", cls=_Steps)
def command() -> None:
    """Decide precision by measurement: record, look at the halves, measure the sensitivity, plan; then 'quantize'."""
