"""The engines of a bundle on disk: where they lie, which may be used, and which are there for nothing."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..bundle import ALL_PRECISIONS, Bundle, sha256
from ..components import COMPONENTS
from ..errors import BackendError, BundleError, RequestError
from .flavours import FLAVOURS
from .record import UPDATE, EngineRecord, onnx_hashes

FOLDER = "engines"
ENGINE, RECORD, PARTIAL = ".engine", ".json", ".partial"
TIMING_CACHE = "timing.cache"

_OWN_FOLDER = re.compile(rf"({'|'.join(FLAVOURS)})-[^/]+-(portable|sm[0-9-]+)")
_OWN_FILE = re.compile(
    rf"({'|'.join((*COMPONENTS, UPDATE))})\.({'|'.join(ALL_PRECISIONS)})({ENGINE}|{RECORD})({re.escape(PARTIAL)})?"
)


@dataclass(frozen=True)
class Entry:
    """An engine of the cache, or what is left of one: ``problem`` says why it cannot be used, and is None where it
    can as far as its files tell."""

    path: Path
    record: EngineRecord | None
    bytes: int
    problem: str | None


def folder_name(flavour: str, version: str, capability: str) -> str:
    """Where engines of one library and one kind of GPU lie, below the bundle's :data:`FOLDER`."""
    return f"{flavour}-{version}-{capability}"


def engine_path(folder: Path, component: str, precision: str) -> Path:
    """The engine of ``component`` in ``folder``; its record lies beside it."""
    return folder / f"{component}.{precision}{ENGINE}"


def record_path(engine: Path) -> Path:
    """The record beside ``engine``."""
    return engine.with_suffix(RECORD)


def entries(bundle: Bundle) -> list[Entry]:
    """All of the bundle's cache that a build makes, checked by size and SHA-256 and against the bundle's ONNX files;
    what else lies there is not looked at."""
    return [_entry(bundle, path) for path in _files(bundle.root / FOLDER)]


def prune(bundle: Bundle, *, everything: bool = False) -> list[Entry]:
    """Remove what cannot be used, or ``everything``, and the folders that are empty by that; what was removed.

    Nothing but what a build makes is touched. Raises :class:`RequestError` while a build is at work.
    """
    with locked(bundle):
        removed = []
        for entry in entries(bundle):
            if (everything or entry.problem is not None) and (entry.path.is_symlink() or not entry.path.is_dir()):
                entry.path.unlink(missing_ok=True)
                if entry.path.suffix == ENGINE:
                    record_path(entry.path).unlink(missing_ok=True)
                removed.append(entry)
        for folder in {entry.path.parent for entry in removed}:
            if {path.name for path in folder.iterdir()} <= {TIMING_CACHE}:
                (folder / TIMING_CACHE).unlink(missing_ok=True)
                # An empty folder does no harm, and a mount point cannot go.
                with suppress(OSError):
                    folder.rmdir()
                    folder.parent.rmdir()
    return removed


@contextmanager
def locked(bundle: Bundle) -> Iterator[None]:
    """Keep other builds and prunes of this bundle away; the system lets go of it however the process ends. Raises
    :class:`RequestError` where another is at work."""
    folder = os.open(bundle.root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(f"another build or prune is at work in {bundle.root}; wait until it is done") from None
        except OSError as error:
            raise RequestError(
                f"{bundle.root} cannot be locked ({error.strerror}), so that two builds could meet there; copy it to "
                "a local disk"
            ) from None
        yield
    finally:
        os.close(folder)


def misfit(bundle: Bundle, engine: Path, record: EngineRecord) -> str | None:
    """Why the file ``engine`` and its ``record`` are not of the component of ``bundle`` that the file's name says, or
    not of each other; None where they fit. The file is read last, and once for as long as it stays as it is."""
    component, precision = engine.name.split(".")[:2]
    if (record.component, record.precision) != (component, precision):
        return f"its record is of {record.component!r} in {record.precision!r}"
    try:
        current = onnx_hashes(bundle, component, precision)
    except BundleError:
        return f"the bundle has no {component} in {precision}"
    if record.onnx != current:
        return "it was built from other ONNX files than the bundle has now"
    return None if _intact(engine, record) else "its file is not the one that was built (size or SHA-256 differs)"


def _intact(engine: Path, record: EngineRecord) -> bool:
    if not engine.is_file():
        return False
    there = engine.stat()
    return there.st_size == record.bytes and _sha256(engine, there.st_mtime_ns, there.st_size) == record.sha256


@lru_cache(maxsize=64)
def _sha256(path: Path, modified: int, size: int) -> str:
    """Engines are large and are asked for often, with ``--low-memory`` at every load."""
    return sha256(path)


def _files(root: Path) -> Iterator[Path]:
    """Engines, records without an engine, and what a killed build left. Links to other folders are not followed."""
    for path in sorted(root.glob("*/*")):
        folder = path.parent
        if folder.is_symlink() or not _OWN_FOLDER.fullmatch(folder.name) or not _OWN_FILE.fullmatch(path.name):
            continue
        alone = path.suffix == RECORD and not path.with_suffix(ENGINE).exists()
        if path.suffix in (ENGINE, PARTIAL) or alone:
            yield path


def _entry(bundle: Bundle, path: Path) -> Entry:
    size = path.lstat().st_size
    if path.is_symlink() or not path.is_file():
        return Entry(path, None, size, "it is no file but a link or a folder")
    if path.suffix == PARTIAL:
        return Entry(path, None, size, "left by a build that was stopped")
    if path.suffix == RECORD:
        return Entry(path, None, size, "a record without its engine")
    try:
        record = EngineRecord.read(record_path(path))
    except BackendError as error:
        return Entry(path, None, size, str(error))
    return Entry(path, record, size, misfit(bundle, path, record))
