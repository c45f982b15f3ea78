"""What several verbs share: options, progress, JSON, and the packages of the other rooms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..backends import BACKENDS
from ..errors import BackendError
from ..precision import WANTED

bundle_argument = click.argument("bundle", type=click.Path(path_type=str))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on standard error.")
threads_option = click.option(
    "--threads", type=click.IntRange(0, 256), default=0, help="CPU threads; 0, the default, leaves it to the engine."
)


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--backend``, ``--precision``, ``--max-drift`` and ``--no-cuda-graph``."""
    command = click.option(
        "--no-cuda-graph", is_flag=True, help="Launch the network's kernels one by one; nothing changes on a CPU."
    )(command)
    command = click.option(
        "--max-drift",
        type=float,
        help="With --precision auto, the fastest that was measured to drift no further from fp32 (relative L2).",
    )(command)
    command = click.option(
        "--precision",
        type=click.Choice(WANTED),
        default="auto",
        show_default=True,
        help="auto: fp16 on a GPU, fp32 on a CPU, as far as the bundle has them, or what --max-drift allows.",
    )(command)
    return click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)(command)


class CommaList(click.ParamType):
    """Names separated by commas."""

    name = "NAME[,NAME]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())


class Pair(click.ParamType):
    """``NAME=VALUE``."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, found, rest = value.partition("=")
        if not found or not name.strip() or not rest.strip():
            self.fail(f"found {value!r}, expected NAME=VALUE such as DEM=dem.tif", param, ctx)
        return name.strip(), rest.strip()


def whole_number(text: str) -> int:
    """A whole number of at most ten characters: what is longer is no pixel and no code, and may have no float."""
    if len(text.strip()) > 10:
        raise ValueError(text)
    return int(text)


class CodeMap(click.ParamType):
    """``FROM:TO[,FROM:TO]``."""

    name = "FROM:TO[,FROM:TO]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[int, int]:
        if isinstance(value, dict):
            return value
        mapped: dict[int, int] = {}
        for entry in value.split(","):
            source, _, target = entry.partition(":")
            try:
                code, replacement = whole_number(source), whole_number(target)
            except ValueError:
                self.fail(f"found {entry!r}, expected FROM:TO such as 3:4", param, ctx)
            if mapped.setdefault(code, replacement) != replacement:
                self.fail(f"code {code} is mapped to both {mapped[code]} and {replacement}", param, ctx)
        return mapped


def _offset(ctx: click.Context, param: click.Parameter, value: str) -> str | int:
    return value if value == "auto" else int(value)


s2_offset_option = click.option(
    "--s2-offset",
    type=click.Choice(["auto", "0", "-1000"]),
    default="auto",
    show_default=True,
    callback=_offset,
    help="To add to Sentinel-2 DN; auto: what the file's own metadata say.",
)


def cells_options(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--cells``, which gives ``what`` in place of the made-up world, and how to read them: ``--lulc-map``,
    ``--s2-offset`` and ``--fill-nodata``."""
    options = (
        click.option(
            "--cells",
            type=click.Path(path_type=Path),
            help=f"{what} instead: a folder of cells, FAMILY/CELL.tif or Major TOM's Core-* folders.",
        ),
        click.option("--lulc-map", type=CodeMap(), help="Replace land cover codes of the cells, for example 3:4,4:5."),
        s2_offset_option,
        click.option("--fill-nodata", is_flag=True, help="Fill missing pixels of the cells instead of refusing them."),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def need(room: str) -> Any:
    """A module of another room, such as ``export.exporter``; :class:`BackendError` where PyTorch or ONNX is missing.

    The runtime stands without them: only the verbs that make bundles come here.
    """
    try:
        return import_module(f"copgen_edge.{room}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("copgen_edge"):
            raise
        raise BackendError(
            f"this needs the package {error.name}, which is not installed; run pip install 'copgen-edge[export]' (and "
            "torch from its CPU index on a machine without a GPU)"
        ) from None


def emit(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def err_console() -> Console:
    """Standard error, as rich sees it."""
    return Console(stderr=True, highlight=False)


def say(quiet: bool) -> Callable[[str], None]:
    """A function that prints a line on standard error, or none where the user wants quiet."""
    return (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress(what, done, total) that draws a bar with the time left: on a terminal only, and not if ``quiet``."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err_console(), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            # A stage that names its component keeps one bar, whose text moves on.
            stage = what.split(" ", 1)[0]
            if stage not in tasks:
                tasks[stage] = bar.add_task(what, total=total)
            bar.update(tasks[stage], description=what, completed=done, total=total)

        yield progress
