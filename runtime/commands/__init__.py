"""The command line: one file a verb, each loaded when it is called."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

import click

from ..errors import CopgenError, RequestError
from .lazy import LazyGroup

VERBS = {
    "demo": "Run the small trained model on a made-up scene, from checkpoint to pictures.",
    "weights": "Download the authors' weights, copy the small model's, or make random ones.",
    "train-small": "Train a small model on a made-up world.",
    "export": "Turn a checkpoint into a bundle.",
    "calibrate": "Measure what precision costs, and plan it.",
    "quantize": "Write the precisions of a plan to a bundle.",
    "build": "Build TensorRT engines of a bundle.",
    "cache": "List, check and prune the engines of a bundle.",
    "verify": "Check a bundle against its reference.",
    "generate": "Generate the missing modalities of a place.",
    "scene": "Generate the missing modalities of a scene of any size.",
    "evaluate": "Judge samples against the truth or a baseline.",
    "info": "Say what a bundle holds.",
    "bench": "Measure a bundle on this machine.",
    "doctor": "Say what this machine can run, and what to install.",
}

USAGE_ERROR = 2
FAILURE = 1


class _Verbs(LazyGroup):
    """What goes wrong ends as one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _tidy_when_killed():
                return super().invoke(ctx)
        except CopgenError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(USAGE_ERROR if isinstance(error, RequestError) else FAILURE)
        except MemoryError as error:
            what = " ".join(str(error).split()) or "no more of it can be had"
            click.echo(f"Error: not enough memory ({what}); ask for less at once, or try --low-memory", err=True)
            ctx.exit(FAILURE)
        except OSError as error:
            click.echo(f"Error: {error}; check the disk and the permissions, then run it again", err=True)
            ctx.exit(FAILURE)


@contextmanager
def _tidy_when_killed() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the program as Ctrl-C does, so that unfinished folders go, and exit as the shell
    expects: 128 + the signal's number."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    kills = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What a caller handles or ignores (nohup) stays so, and Python takes handlers in the main thread alone.
    mine = [kill for kill in kills if signal.getsignal(kill) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    for kill in mine:
        signal.signal(kill, unwind)
    try:
        yield
    finally:
        for kill in mine:
            signal.signal(kill, signal.SIG_DFL)


@click.group(
    cls=_Verbs,
    verbs=VERBS,
    package=__name__,
    title="Commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version("copgen-edge"), prog_name="copgen-edge")
def main() -> None:
    """COP-GEN at the edge: generate any Copernicus modality from any others, as georeferenced samples.

    Exit codes: 0 done, 1 the work failed, 2 the request is wrong.
    """
