"""Output folders and files that appear whole or not at all, and that one process at a time works on."""

from __future__ import annotations

import fcntl
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
    out = require_new(out)
    made = make_parents(out)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        remove_empty(made)
        raise RequestError(f"cannot write below {out.parent}: {error.strerror}; choose another folder") from None
    try:
        require_space(out.parent, needed_bytes, "the result")
        yield work
        # mkdtemp makes folders for the owner alone; a result is an ordinary folder.
        work.chmod(0o777 & ~_umask())
        rename_whole(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        remove_empty(made)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` when the block ends well and is removed when not.

    What was written is on the disk before the name is. A kill can leave ``NAME.partial`` beside ``path``.

    Raises :class:`RequestError` where the folder of ``path``, which is made, cannot be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {path.parent}: {error.strerror}; choose another folder") from None
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Keep other processes that lock ``path``, a file or folder that is there, away while the block runs; the system
    lets go of it however the process ends.

    Raises :class:`RequestError` with ``message`` where another has it, or had it until now and removed it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise RequestError(message) from None
    except OSError as error:
        raise RequestError(f"{path} cannot be opened: {error.strerror}; check its permissions") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What was removed since it was opened is locked in vain: the next process locks another of that name.
            mine = os.path.samestat(os.fstat(descriptor), path.stat())
        except (BlockingIOError, FileNotFoundError):
            raise RequestError(message) from None
        except OSError as error:
            raise RequestError(
                f"{path} cannot be locked ({error.strerror}), so that two processes could meet there; use a folder on "
                "a local disk"
            ) from None
        if not mine:
            raise RequestError(message)
        yield
    finally:
        os.close(descriptor)


def require_new(out: Path) -> Path:
    """``out`` with links followed, because renaming a folder onto a link fails, and only after all the work.

    Raises :class:`RequestError` where ``out`` holds something or is a mount point.
    """
    out = out.resolve()
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise RequestError(f"cannot make {out}: {error.strerror}; choose another folder") from None
    if taken:
        raise RequestError(f"{out} holds something already; name a new folder, or remove it first")
    if out.is_mount():
        raise RequestError(f"{out} is a mount point, which a finished folder cannot replace; name a new folder in it")
    return out


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise :class:`RequestError` where the disk of ``folder`` has fewer bytes free than ``what`` may take."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise RequestError(
            f"{folder} has {free / 1e6:.0f} MB free and {what} needs up to {needed_bytes / 1e6:.0f} MB; make room or "
            "choose another folder"
        )


def make_parents(out: Path) -> list[Path]:
    """Make the folders above ``out``; those that were made, the innermost first. Raises :class:`RequestError`."""
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_empty(missing)
        raise RequestError(f"cannot make {out.parent}: {error.strerror}; choose another folder") from None
    return missing


def rename_whole(work: Path, out: Path) -> None:
    """Make the folder ``work`` be ``out``, which is new or empty, once all in it is on the disk."""
    for path in (*work.rglob("*"), work):
        sync(path)
    if out.is_dir():
        out.rmdir()
    work.rename(out)
    sync(out.parent)


def sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty; another program may have put something in one meanwhile."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
