"""``copgen-edge cache``: the TensorRT engines of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..bundle import Bundle
from ..engines.cache import Entry, entries, prune
from ..errors import RequestError
from .common import bundle_argument, emit, json_option
from .tables import print_table


@click.group("cache")
def command() -> None:
    """List, check and prune the TensorRT engines that 'copgen-edge build' put into a bundle."""


@command.command("list")
@bundle_argument
@json_option
def list_(bundle: str, as_json: bool) -> None:
    """List all engines, each checked by size and SHA-256 and against the bundle's ONNX files."""
    opened = Bundle.open(bundle)
    _show(opened.root, entries(opened), as_json)


@command.command("check")
@bundle_argument
@json_option
def check(bundle: str, as_json: bool) -> None:
    """Fail (exit code 2) where an engine cannot be used."""
    opened = Bundle.open(bundle)
    found = entries(opened)
    _show(opened.root, found, as_json)
    bad = [entry for entry in found if entry.problem is not None]
    if bad:
        raise RequestError(
            f"{len(bad)} of {len(found)} cannot be used; 'copgen-edge cache prune {bundle}' removes them, 'copgen-edge "
            "build' makes them anew"
        )


@command.command("prune")
@bundle_argument
@click.option("--all", "everything", is_flag=True, help="Remove engines that are good, too.")
@json_option
def prune_(bundle: str, everything: bool, as_json: bool) -> None:
    """Remove engines that cannot be used, and what builds left that were stopped."""
    opened = Bundle.open(bundle)
    removed = prune(opened, everything=everything)
    click.echo(f"removed {len(removed)} files, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB", err=True)
    if as_json:
        emit([_plain(opened.root, entry) for entry in removed])


def _plain(root: Path, entry: Entry) -> dict[str, Any]:
    return {
        "path": entry.path.relative_to(root).as_posix(),
        "bytes": entry.bytes,
        "problem": entry.problem,
        "record": None if entry.record is None else asdict(entry.record),
    }


def _show(root: Path, found: Sequence[Entry], as_json: bool) -> None:
    if as_json:
        emit([_plain(root, entry) for entry in found])
        return
    print_table(
        f"Engines of {root}",
        ("file", "", "GPU", "MB", "batch"),
        [
            (
                entry.path.relative_to(root).as_posix(),
                "ok" if entry.problem is None else "unusable",
                "" if entry.record is None else f"{entry.record.gpu} ({entry.record.capability})",
                f"{entry.bytes / 1e6:.1f}",
                "" if entry.record is None else ",".join(str(size) for size in entry.record.options.batch),
            )
            for entry in found
        ],
        text_columns=3,
    )
    for entry in found:
        if entry.problem is not None:
            click.echo(f"{entry.path.relative_to(root).as_posix()}: {entry.problem}", err=True)
