"""Output folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RequestError


@contextmanager
def new_folder(out: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder to write in that becomes ``out`` when the block ends well, and vanishes when it does not.

    What was written is on the disk before the name is, so that a power cut leaves no whole-looking folder of empty
    files; it can leave a hidden folder ``.NAME.partial-...`` beside ``out``, as a kill can.

    Raises :class:`RequestError` where ``out`` holds something, cannot be written, or its disk has too little room.
    """
    # A link is followed: renaming a folder onto one fails, and only after all the work.
    out = out.resolve()
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise RequestError(f"cannot make {out}: {error.strerror}; choose another folder") from None
    if taken:
        raise RequestError(f"{out} holds something already; name a new folder, or remove it first")
    if out.is_mount():
        raise RequestError(f"{out} is a mount point, which a finished folder cannot replace; name a new folder in it")
    made = _make_parents(out)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        _remove(made)
        raise RequestError(f"cannot write below {out.parent}: {error.strerror}; choose another folder") from None
    try:
        free = shutil.disk_usage(work).free
        if free < needed_bytes:
            raise RequestError(
                f"{out.parent} has {free / 1e6:.0f} MB free and up to {needed_bytes / 1e6:.0f} MB are needed; make "
                "room or choose another folder"
            )
        yield work
        # mkdtemp makes folders for the owner alone; a result is an ordinary folder.
        work.chmod(0o777 & ~_umask())
        for path in (*work.rglob("*"), work):
            _sync(path)
        if out.is_dir():
            out.rmdir()
        work.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        _remove(made)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` when the block ends well and is removed when not.

    Raises :class:`RequestError` where the folder of ``path``, which is made, cannot be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {path.parent}: {error.strerror}; choose another folder") from None
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _make_parents(out: Path) -> list[Path]:
    """Make the folders above ``out``; those that were made, the innermost first."""
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove(missing)
        raise RequestError(f"cannot make {out.parent}: {error.strerror}; choose another folder") from None
    return missing


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(made: list[Path]) -> None:
    """Remove folders that are empty; another program may have put something in one meanwhile."""
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
