"""``copgen-edge train-small``: a small COP-GEN from nothing, on the procedural world."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from .common import emit, json_option, need, progress_bar, quiet_option, say


@click.command("train-small")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to train in.")
@click.option("--seed", type=click.IntRange(0, 399), default=0, show_default=True)
@click.option(
    "--effort",
    type=click.FloatRange(0, 1000, min_open=True),
    default=1.0,
    show_default=True,
    help="Steps and patches as a multiple of the usual.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
@quiet_option
def command(out: Path, seed: int, effort: float, device: str, as_json: bool, quiet: bool) -> None:
    """Train ten autoencoders and the network on made-up patches; a second call goes on where one was stopped.

    OUT/work has the log and pictures to look at while it runs, OUT/model the finished checkpoint for 'export'.
    """
    recipe = need("copgen_ref.training.recipe")
    tell = say(quiet)
    tell(f"look at {out / 'work' / 'pictures'} while it runs; the losses are in {out / 'work' / 'log.jsonl'}")
    with progress_bar(quiet) as progress:
        model = need("copgen_ref.training.small").train_small(
            out,
            replace(recipe.SMALL, seed=seed).scaled(effort),
            device=device,
            workers=max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
            progress=progress,
        )
    tell(f"next: copgen-edge export --checkpoint {model} --out bundle")
    if as_json:
        emit({"model": str(model)})
