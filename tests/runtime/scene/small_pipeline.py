"""A small deterministic pipeline in a scene's working folder, and processes that run it and are killed at any point.

As a script: ``die MODE STRIDE FOLDER`` kills it at every STRIDE-th point, starts it again, and prints how many points
there are; ``run OUT`` runs it once; ``hold OUT`` enters the working folder, says so, and waits to be killed;
``limit OUT BYTES`` runs it where no file may grow beyond so many bytes.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from copgen_edge.runtime.errors import CopgenError
from copgen_edge.runtime.folders import whole_file
from copgen_edge.runtime.scene.ledger import open_array, save_array
from copgen_edge.runtime.scene.workplace import Workplace, scene_folder

FINGERPRINT: dict[str, Any] = {"seed": 0, "conditions": {"DEM": {"sha256": "d" * 64}}, "bundle": "b" * 64}
ROWS, CALLS = 2, 3
STEPS = ROWS + CALLS + 2
DONE, FAILED = 0, 3

Point = Callable[[], None]
Step = Callable[[str], None]


def run(out: Path, *, step: Step = lambda work: None, point: Point = lambda: None) -> None:
    """Make ``out``; ``step`` hears of each step that is done, ``point`` is called in the middle of a file."""
    with scene_folder(out, FINGERPRINT) as place:
        for row in range(ROWS):
            if place.ledger.finished(f"encode row {row}") is None:
                path = place.root / "latents" / f"{row}.npy"
                save_array(path, np.full((4, 5), row, np.float32))
                place.ledger.record(f"encode row {row}", [path])
                step(f"encode row {row}")
        state = _denoise(place, step)
        if place.ledger.finished("decode") is None:
            path = place.result / "samples" / "0.bin"
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                for row in range(ROWS):
                    latent = open_array(place.root / "latents" / f"{row}.npy")
                    file.write((latent * state).tobytes())
                    file.flush()
                    point()
            place.ledger.record("decode", [path])
            step("decode")
        if (values := place.ledger.finished("statistics")) is None:
            content = (place.result / "samples" / "0.bin").read_bytes()
            values = place.ledger.record("statistics", [], mean=float(np.frombuffer(content, np.float32).mean() / 3))
            step("statistics")
        with whole_file(place.result / "item.json") as partial:
            partial.write_text(f"{values['mean']!r}")
            point()
        (place.result / "notes.txt").write_text("put on the disk by nobody but the folder's end")


def _denoise(place: Workplace, step: Step) -> np.ndarray:
    """A checkpoint a call, each in a file of its own, the last one kept."""
    states = [place.root / f"state-{call}.npy" for call in range(CALLS)]
    done = [call for call in range(CALLS) if place.ledger.finished(f"denoise call {call}") is not None]
    state = np.array(open_array(states[done[-1]])) if done else np.ones((4, 5), np.float32)
    for call in range(done[-1] + 1 if done else 0, CALLS):
        state = state * np.float32(1.7) + np.float32(call)
        save_array(states[call], state)
        place.ledger.record(f"denoise call {call}", [states[call]])
        step(f"denoise call {call}")
        if call:
            place.ledger.forget(f"denoise call {call - 1}")
            states[call - 1].unlink(missing_ok=True)
    return state


def tree(folder: Path) -> dict[str, str]:
    """Every file's digest, and every folder, by path."""
    return {
        path.relative_to(folder).as_posix(): "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


class _Death:
    """Kills the process at the ``at``-th point where it touches the disk below ``folder``.

    ``power_cut``: every file is first cut to what was on the disk for sure, its size when it was last synced.
    """

    def __init__(self, folder: Path, at: int, power_cut: bool) -> None:
        self._folder, self._left, self._power_cut, self._over = str(folder), at, power_cut, False
        self._safe = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}

    def point(self) -> None:
        if self._over:
            return
        self._left -= 1
        if self._left < 0:
            self._over = True
            if self._power_cut:
                self._lose_what_is_not_synced()
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: it hears of an operation before it is done."""
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            path = args[0]
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._folder):
                self.point()

    def fsync(self, descriptor: int) -> None:
        """In place of os.fsync, which takes its time: what counts here is that it was called, and when."""
        self.point()
        there = os.fstat(descriptor)
        self._safe[there.st_ino] = there.st_size
        self.point()

    def _lose_what_is_not_synced(self) -> None:
        for file in Path(self._folder).rglob("*"):
            if file.is_file():
                there = file.stat()
                os.truncate(file, min(there.st_size, self._safe.get(there.st_ino, 0)))


def start(folder: Path, *, die_at: int | None, power_cut: bool = False) -> tuple[int, str]:
    """Run the pipeline on ``folder/out`` in a process of its own; its exit status and what it said of its failure."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            death = _Death(folder, sys.maxsize if die_at is None else die_at, power_cut)
            os.fsync = death.fsync
            sys.addaudithook(death.hear)
            with (folder.parent / f"{folder.name}.steps").open("a") as steps:

                def step(work: str) -> None:
                    steps.write(f"{work}\n")
                    steps.flush()

                run(folder / "out", step=step, point=death.point)
            status = DONE
        except CopgenError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        words = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words


def die_everywhere(base: Path, mode: str, stride: int) -> int:
    """Kill at every ``stride``-th point in turn and start again, until a run meets no more; where that was.

    ``mode``: ``kill``, ``power-cut``, or ``twice``: the second start is killed too, at points spread over all.
    """
    assert start(_made(base / "whole"), die_at=None) == (DONE, "")
    whole = tree(base / "whole" / "out")
    points = 0
    while True:
        folder = _made(base / str(points))
        status, words = start(folder, die_at=points, power_cut=mode == "power-cut")
        if status == DONE:
            return points
        assert status == -signal.SIGKILL, (points, status, words)
        _check_whole_or_nothing(folder, whole)
        over, deaths = (folder / "out").exists(), 1
        if mode == "twice" and start(folder, die_at=points * 7 % 60)[0] == -signal.SIGKILL:
            _check_whole_or_nothing(folder, whole)
            over, deaths = (folder / "out").exists(), 2
        status, words = start(folder, die_at=None)
        # Where it died after its end, there is nothing to do; without a hidden folder it is as any other output.
        told = status == FAILED and ("is finished" in words or "holds something already" in words)
        assert status == DONE or (over and told), (points, status, words)
        assert tree(folder) == {"out": "folder", **{f"out/{path}": what for path, what in whole.items()}}, points
        steps = (base / f"{points}.steps").read_text().splitlines()
        assert set(steps) <= set((base / "whole.steps").read_text().splitlines())
        assert STEPS - deaths <= len(steps) <= STEPS + deaths, (points, steps)
        points += stride


def _check_whole_or_nothing(folder: Path, whole: dict[str, str]) -> None:
    if (folder / "out").exists():
        assert tree(folder / "out") == whole, folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(verb: str, *words: str) -> None:
    if verb == "die":
        sys.stdout.write(f"{die_everywhere(Path(words[2]), words[0], int(words[1]))}\n")
    elif verb == "run":
        run(Path(words[0]))
    elif verb == "hold":
        with scene_folder(Path(words[0]), FINGERPRINT) as place:
            place.ledger.record("begun", [])
            sys.stdout.write("held\n")
            sys.stdout.flush()
            time.sleep(600)
    elif verb == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(words[1]), int(words[1])))
        try:
            run(Path(words[0]))
        except CopgenError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
