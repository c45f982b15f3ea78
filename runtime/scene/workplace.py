"""Where a scene, or other long work, is made: a hidden folder beside the output that outlives a kill, so that the same
request goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import CopgenError, RequestError
from ..folders import locked, make_parents, remove_empty, rename_whole, require_new, sync, whole_file
from .ledger import LEDGER, Ledger, keeping

REQUEST, RESULT, PROCESS = "request.json", "result", "process.txt"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHOWN, _WIDTH = 6, 60
"""How many differences a message tells, and in how many characters each value."""


@dataclass(frozen=True)
class Workplace:
    """``root``: for temporary files; ``result``, in it: what becomes the output; ``ledger``: what is finished;
    ``digest``: the SHA-256 of the request's fingerprint."""

    root: Path
    result: Path
    ledger: Ledger
    digest: str


@contextmanager
def scene_folder(out: Path, fingerprint: Mapping[str, Any], what: str = "scene") -> Iterator[Workplace]:
    """A folder ``.NAME.scene`` beside ``out`` to work in, whose ``result`` becomes ``out`` when the block ends well.

    ``what`` is made stands in the folder's name and in messages. ``fingerprint`` is all that determines the result, as
    JSON can hold it. The folder is locked while the block runs and stays when the block fails or the process is killed,
    once a step is recorded; entered again with the same fingerprint, it holds the files that the ledger names and no
    others.

    Raises :class:`RequestError` where ``out`` holds something, is finished, or cannot be made, where another process
    works on it, or where the folder is of another request; :class:`CopgenError` where the disk is full or the ledger
    damaged.
    """
    out = out.resolve()
    folder = hidden_folder(out, what)
    try:
        begun = folder.exists()
    except OSError as error:
        raise RequestError(f"cannot make {folder}: {error.strerror}; choose another folder for the result") from None
    if not begun:
        require_new(out)
    made = make_parents(out)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        remove_empty(made)
        raise RequestError(f"cannot make {folder}: {error.strerror}; choose another folder for the result") from None
    with locked(folder, f"{_holder(folder)} is at work on {out}; wait until it is done, or name another folder"):
        _refuse_if_done(folder, out)
        with keeping(folder):
            place = _open(folder, json.loads(_canonical(fingerprint)), what)
        try:
            yield place
        except BaseException as error:
            # There is nothing to go on with, so a request that was wrong leaves nothing.
            if not place.ledger.works:
                _remove(folder)
                remove_empty(made)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise CopgenError(
                    f"a file in {folder} cannot grow ({error.strerror}); make room on its disk and run the same "
                    "request again: what is finished stays"
                ) from error
            raise
        _publish(place, out, what)
        _remove(folder)


def hidden_folder(out: Path, what: str = "scene") -> Path:
    """Where :func:`scene_folder` works on ``out``."""
    out = out.resolve()
    return out.parent / f".{out.name}.{what}"


def _refuse_if_done(folder: Path, out: Path) -> None:
    try:
        require_new(out)
    except RequestError:
        # Only what is finished leaves the folder without its result.
        done = (folder / REQUEST).exists() and not (folder / RESULT).exists()
        if done:
            _remove(folder)
        remove_empty([folder])
        if done:
            raise RequestError(
                f"{out} is finished: the run that made it ended just after that; name a new folder for another"
            ) from None
        raise


def _open(folder: Path, fingerprint: dict[str, Any], what: str) -> Workplace:
    digest = hashlib.sha256(_canonical(fingerprint).encode()).hexdigest()
    request, result = folder / REQUEST, folder / RESULT
    if request.exists():
        _check_same(request, fingerprint)
    elif strange := sorted({path.name for path in folder.rglob("*")} - {RESULT, f"{REQUEST}.partial"}):
        raise RequestError(
            f"{folder} holds {strange[0]} and is no unfinished {what}; move it away, or name another folder"
        )
    # Before the request's file: with that and without a result, the scene is finished.
    result.mkdir(exist_ok=True)
    if not request.exists():
        with whole_file(request) as partial:
            content = {"digest": digest, "fingerprint": fingerprint}
            partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    (folder / PROCESS).write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since},", encoding="utf-8")
    ledger = Ledger(folder, digest)
    _sweep(folder, ledger.files | {folder / name for name in (REQUEST, PROCESS, LEDGER)})
    return Workplace(folder, result, ledger, digest)


def _check_same(request: Path, fingerprint: dict[str, Any]) -> None:
    anew = f"start anew after rm -r {shlex.quote(str(request.parent))}"
    try:
        content = json.loads(request.read_bytes())
        there = content["fingerprint"]
        damaged = content["digest"] != hashlib.sha256(_canonical(there).encode()).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        damaged = True
    if damaged:
        raise RequestError(f"{request} is not what was written there; {anew}")
    if differing := list(_differences(there, fingerprint)):
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise RequestError(
            f"{request.parent} holds unfinished work of another request ({'; '.join(differing[:_SHOWN])}{more}); "
            f"repeat that request, name another folder for this one, or {anew}"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """One phrase for each value that differs, by where it lies in the fingerprint."""
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        there, here = dict(enumerate(there)), dict(enumerate(here))
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            inner = f"{name} {key}".lstrip()
            if key in there and key in here:
                yield from _differences(there[key], here[key], inner)
            else:
                yield f"{inner} only {'there' if key in there else 'here'}"
    elif _canonical(there) != _canonical(here):
        if name.endswith("sha256"):
            yield f"{name.removesuffix('sha256').rstrip() or 'it'} has another SHA-256"
        else:
            yield f"{name} {_shown(there)} there, {_shown(here)} here"


def _shown(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and value
    text = "none" if value is None else value if plain else json.dumps(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _sweep(folder: Path, kept: frozenset[Path] | set[Path]) -> None:
    """Remove what no record names: what a killed process was writing would otherwise end up in the result."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in (*files, *folders)):
            if path.is_dir() and not path.is_symlink():
                if path != folder / RESULT:
                    remove_empty([path])
            elif path not in kept:
                path.unlink()


def _publish(place: Workplace, out: Path, what: str) -> None:
    try:
        rename_whole(place.result, out)
        sync(place.root)
    except OSError as error:
        raise CopgenError(
            f"the {what} is done, and its folder {place.result} cannot become {out} ({error.strerror}); see to that "
            "and run the same request again: what is finished stays"
        ) from error


def _remove(folder: Path) -> None:
    """Remove ``folder``, the file that tells what it is last."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != REQUEST:
            # What cannot go now goes at the next start, or stays for its owner to remove.
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        (folder / REQUEST).unlink()
    remove_empty([folder])


def _holder(folder: Path) -> str:
    """Who works in ``folder``, if that can be told."""
    with suppress(OSError, ValueError):
        words = (folder / PROCESS).read_text(encoding="utf-8")[:200]
        if words.isprintable() and words:
            return words
    return "another process"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
