"""The engines of a bundle on disk: where they lie, which may be used, and which are there for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle, sha256
from ..components import COMPONENTS
from ..errors import BackendError, BundleError
from .record import UPDATE, EngineRecord, onnx_hashes

FOLDER = "engines"
ENGINE, RECORD, PARTIAL = ".engine", ".json", ".partial"


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
    """All that lies in the bundle's cache, checked by size and SHA-256 and against the bundle's ONNX files."""
    root = bundle.root / FOLDER
    return [_entry(bundle, path) for path in _files(root)]


def prune(bundle: Bundle, *, everything: bool = False) -> list[Entry]:
    """Remove what cannot be used, or ``everything``, and folders that are empty then; what was removed."""
    removed = [entry for entry in entries(bundle) if everything or entry.problem is not None]
    for entry in removed:
        entry.path.unlink(missing_ok=True)
        if entry.path.suffix == ENGINE:
            record_path(entry.path).unlink(missing_ok=True)
    root = bundle.root / FOLDER
    for folder in [*(root.glob("*/") if root.is_dir() else ()), root]:
        if folder.is_dir():
            left = [path for path in folder.iterdir() if path.name != TIMING_CACHE]
            if not left:
                (folder / TIMING_CACHE).unlink(missing_ok=True)
                folder.rmdir()
    return removed


TIMING_CACHE = "timing.cache"


def intact(engine: Path, record: EngineRecord) -> bool:
    """Whether the file is the one that its record tells of."""
    return engine.is_file() and engine.stat().st_size == record.bytes and sha256(engine) == record.sha256


def _files(root: Path) -> Iterator[Path]:
    """Engines, records without an engine, and what a killed build left."""
    for path in sorted(root.glob("*/*")):
        alone = path.suffix == RECORD and not path.with_suffix(ENGINE).exists()
        if path.suffix in (ENGINE, PARTIAL) or alone:
            yield path


def _entry(bundle: Bundle, path: Path) -> Entry:
    size = path.stat().st_size
    if path.suffix == PARTIAL:
        return Entry(path, None, size, "left by a build that was stopped")
    if path.suffix == RECORD:
        return Entry(path, None, size, "a record without its engine")
    try:
        record = EngineRecord.read(record_path(path))
    except BackendError as error:
        return Entry(path, None, size, str(error))
    return Entry(path, record, size, _problem(bundle, path, record))


def _problem(bundle: Bundle, path: Path, record: EngineRecord) -> str | None:
    if record.component not in (*COMPONENTS, UPDATE):
        return f"it is of {record.component!r}, which is no component"
    try:
        current = onnx_hashes(bundle, record.component, record.precision)
    except BundleError:
        return f"the bundle has no {record.component} in {record.precision}"
    if current != record.onnx:
        return "it was built from other ONNX files than the bundle has now"
    if not intact(path, record):
        return "its file is not the one that was built (size or SHA-256 differs)"
    return None
