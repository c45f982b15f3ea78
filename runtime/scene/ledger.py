"""What of a long piece of work is finished: a line a step, with the digest of every file that the step left."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import FileRecord, sha256
from ..errors import CopgenError, one_line
from ..folders import sync, whole_file

LEDGER = "ledger.jsonl"

_START, _MIDDLE, _END = b'{"sha256":"', b'","entry":', b"}\n"
_HEX = 64


class Ledger:
    """The steps that are finished of the work in a folder, which one process at a time works on.

    A line is ``{"sha256": ..., "entry": {"work": ..., "files": [...], "values": {...}}}``, or without files and values
    where the step was forgotten. Its SHA-256 is of the line before's and of the entry as it stands, the first one's of
    the request's digest: no line can be torn, changed, moved or come from another request unnoticed. A line is written
    when the files it names are on the disk, and is on the disk when :meth:`record` returns.
    """

    def __init__(self, root: Path, digest: str) -> None:
        """Read the ledger in the folder ``root``, made there if it is missing, of the request with ``digest``.

        A last line that is torn, as a kill or a power cut leaves it, is dropped. Raises :class:`CopgenError` for any
        other damage.
        """
        self.root = root
        self._path = root / LEDGER
        self._last = digest
        self._entries: dict[str, dict[str, Any]] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._bytes = 0
        with keeping(self._path):
            self._path.touch()
            sync(root)
            self._read(self._path.read_bytes())
            if self._path.stat().st_size > self._bytes:
                os.truncate(self._path, self._bytes)
                sync(self._path)

    @property
    def works(self) -> tuple[str, ...]:
        """The steps with a record, in the order they were recorded; their files may be gone since."""
        return tuple(self._entries)

    @property
    def files(self) -> frozenset[Path]:
        """The files that a record names."""
        return frozenset(self.root / file["path"] for entry in self._entries.values() for file in entry["files"])

    def finished(self, work: str) -> dict[str, Any] | None:
        """The values that ``work`` was recorded with, or None where it was not, or where a file of it is missing or
        has another size or SHA-256. A file is hashed once, and again when its size or time has changed."""
        entry = self._entries.get(work)
        if entry is None or not all(self._intact(FileRecord(**file)) for file in entry["files"]):
            return None
        return dict(entry["values"])

    def record(self, work: str, files: Iterable[Path], **values: Any) -> dict[str, Any]:
        """Write down that ``work`` is finished, in place of what was written of it before.

        ``files`` are those it left, below the ledger's folder; they and their names are put on the disk first.
        ``values`` is what JSON can hold. Returns the values as :meth:`finished` will, so that a run that is resumed
        goes on with the same. Raises :class:`CopgenError` where a file cannot be read or the line not be written;
        then nothing is recorded.
        """
        records, folders = [], {self.root}
        for path in files:
            with keeping(path):
                sync(path)
                found = FileRecord.of(self.root, path)
                self._digests[path.as_posix(), found.bytes, path.stat().st_mtime_ns] = found.sha256
            records.append(asdict(found))
            folders.update(self.root / folder for folder in Path(found.path).parents)
        for folder in folders:
            with keeping(folder):
                sync(folder)
        self._append({"work": work, "files": records, "values": values})
        return dict(self._entries[work]["values"])

    def forget(self, work: str) -> None:
        """Write down that ``work`` is to be done again, or is needed no more; its files stay, and may go after this.

        Raises :class:`CopgenError` where that cannot be written.
        """
        if work in self._entries:
            self._append({"work": work})

    def _intact(self, record: FileRecord) -> bool:
        path = self.root / record.path
        try:
            there = path.stat()
            if there.st_size != record.bytes:
                return False
            key = path.as_posix(), there.st_size, there.st_mtime_ns
            if key not in self._digests:
                self._digests[key] = sha256(path)
        except OSError:
            # What is gone or cannot be read is made again, which is also how it is replaced.
            return False
        return self._digests[key] == record.sha256

    def _append(self, entry: dict[str, Any]) -> None:
        body = json.dumps(entry, separators=(",", ":")).encode()
        check = _check(self._last, body)
        line = b"".join((_START, check.encode(), _MIDDLE, body, _END))
        with keeping(self._path):
            try:
                with self._path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                # Half a line would spoil the next one.
                with suppress(OSError):
                    os.truncate(self._path, self._bytes)
                raise
        self._accept(line, check, body)

    def _accept(self, line: bytes, check: str, body: bytes) -> None:
        entry = json.loads(body)
        self._last = check
        self._bytes += len(line)
        self._entries.pop(entry["work"], None)
        if "files" in entry:
            self._entries[entry["work"]] = entry

    def _read(self, content: bytes) -> None:
        lines = BytesIO(content).readlines()
        for number, line in enumerate(lines, 1):
            body = line[len(_START) + _HEX + len(_MIDDLE) : -len(_END)]
            check = _check(self._last, body)
            if line != b"".join((_START, check.encode(), _MIDDLE, body, _END)):
                if number == len(lines):
                    return
                raise CopgenError(
                    f"line {number} of {self._path} is not what was written there; start anew after "
                    f"rm -r {shlex.quote(str(self.root))}"
                )
            self._accept(line, check, body)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write ``array`` of numbers as ``.npy`` to ``path``, whole or not at all, and on the disk when this returns.

    Raises :class:`CopgenError` where it cannot be written.
    """
    with keeping(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written, not mapped: a disk that is full is an error here and would be a signal that kills there.
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def open_array(path: Path) -> NDArray[Any]:
    """The array that :func:`save_array` wrote to ``path``, mapped and read-only. Raises :class:`CopgenError`."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CopgenError(
            f"cannot read {path} ({one_line(error)}); run the same request again, which makes it anew"
        ) from None
    return array


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes ``path``, into a :class:`CopgenError` that says how to go on."""
    try:
        yield
    except OSError as error:
        raise CopgenError(
            f"cannot keep {path} ({error.strerror or one_line(error)}); see to its disk's room and permissions and run "
            "the same request again: what is finished stays"
        ) from error


def _check(last: str, body: bytes) -> str:
    return hashlib.sha256(last.encode() + body).hexdigest()
