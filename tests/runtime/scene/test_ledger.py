"""The ledger of finished work: what it believes, and what it makes of damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime.errors import CopgenError
from copgen_edge.runtime.scene import ledger as ledgers
from copgen_edge.runtime.scene.ledger import LEDGER, Ledger, open_array, save_array

DIGEST = "a" * 64


def written(root: Path, *works: str) -> Ledger:
    """A ledger with a file a work."""
    ledger = Ledger(root, DIGEST)
    for work in works:
        path = root / "deep" / f"{work}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(work.encode() * 10)
        ledger.record(work, [path], name=work)
    return ledger


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_recorded_is_known_to_the_next_process(tmp_path: Path) -> None:
    ledger = written(tmp_path, "one")
    told = ledger.record("two", [], pair=(1, 2.5), text="Å\udcff", bad=float("nan"))
    for reader in (ledger, Ledger(tmp_path, DIGEST)):
        assert reader.finished("one") == {"name": "one"}
        assert repr(reader.finished("two")) == repr(told)
        assert reader.finished("three") is None
        assert reader.works == ("one", "two")
        assert reader.files == {tmp_path / "deep" / "one.bin"}
    # As JSON gives it back, so that a resumed run goes on with the same.
    assert told["pair"] == [1, 2.5] and told["text"] == "Å\udcff"


def test_what_a_reader_is_given_is_its_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, DIGEST)
    told = ledger.record("one", [], name="one")
    told["name"] = "mine"
    (ledger.finished("one") or {})["name"] = "mine"
    assert ledger.finished("one") == {"name": "one"}


@pytest.mark.parametrize("known", [True, False], ids=["same process", "next process"])
@pytest.mark.parametrize("harm", ["gone", "shorter", "edited", "a folder"])
def test_work_whose_file_is_another_is_not_finished(tmp_path: Path, harm: str, known: bool) -> None:
    ledger = written(tmp_path, "one", "two")
    assert ledger.finished("one") is not None
    path = tmp_path / "deep" / "one.bin"
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns + 1)
    path.unlink()
    if harm == "shorter":
        path.write_bytes(content[:-1])
    elif harm == "edited":
        path.write_bytes(content[:-1] + b"X")
        os.utime(path, ns=times)
    elif harm == "a folder":
        path.mkdir()
    reader = ledger if known else Ledger(tmp_path, DIGEST)
    assert reader.finished("one") is None
    assert reader.finished("two") == {"name": "two"}
    if harm != "a folder":
        path.write_bytes(content)
        assert reader.finished("one") == {"name": "one"}


def test_a_file_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "one")
    hashed: list[Path] = []
    plain = ledgers.sha256
    monkeypatch.setattr(ledgers, "sha256", lambda path: hashed.append(path) or plain(path))
    reader = Ledger(tmp_path, DIGEST)
    for _ in range(3):
        assert reader.finished("one") is not None
    assert hashed == [tmp_path / "deep" / "one.bin"]


def test_work_is_recorded_again_and_forgotten(tmp_path: Path) -> None:
    ledger = written(tmp_path, "one", "two")
    ledger.record("one", [], name="anew")
    ledger.forget("two")
    ledger.forget("never there")
    for reader in (ledger, Ledger(tmp_path, DIGEST)):
        assert reader.works == ("one",)
        assert reader.finished("one") == {"name": "anew"}
        assert reader.finished("two") is None
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 4
    assert (tmp_path / "deep" / "two.bin").exists()


def test_files_and_folders_are_on_the_disk_before_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path, DIGEST)
    path = tmp_path / "a" / "b" / "x.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    order: list[tuple[str, int]] = []
    known = (path, path.parent, path.parent.parent, tmp_path, tmp_path / LEDGER)
    names = {p.stat().st_ino: p.name for p in known}
    monkeypatch.setattr(
        os, "fsync", lambda fd: order.append((names[os.fstat(fd).st_ino], (tmp_path / LEDGER).stat().st_size))
    )
    ledger.record("one", [path])
    size = (tmp_path / LEDGER).stat().st_size
    assert order[0] == ("x.bin", 0) and order[-1] == (LEDGER, size)
    assert set(order[1:-1]) == {("a", 0), ("b", 0), (tmp_path.name, 0)}


def test_cut_at_every_byte_the_whole_lines_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    written(tmp_path, "one", "two", "three")
    content = (tmp_path / LEDGER).read_bytes()
    for length in range(len(content) + 1):
        (tmp_path / LEDGER).write_bytes(content[:length])
        lines = content[:length].count(b"\n")
        cut = Ledger(tmp_path, DIGEST)
        assert cut.works == ("one", "two", "three")[:lines], length
        assert (tmp_path / LEDGER).read_bytes() == b"".join(content.splitlines(keepends=True)[:lines])
        cut.record("after", [], length=length)
        assert Ledger(tmp_path, DIGEST).finished("after") == {"length": length}


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\n", b"{}\n", b'{"sha256":"', b"\xff\r\r", b"[" * 9999])
def test_what_a_power_cut_leaves_in_the_last_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    written(tmp_path, "one")
    content = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(content + tail)
    assert Ledger(tmp_path, DIGEST).works == ("one",)
    assert (tmp_path / LEDGER).read_bytes() == content


def test_a_byte_changed_before_the_last_line_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    written(tmp_path, "one", "two", "three")
    content = (tmp_path / LEDGER).read_bytes()
    for position in range(content.index(b"\n") + 1):
        (tmp_path / LEDGER).write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CopgenError, match=r"line 1 of .* is not what was written there; start anew after rm -r "):
            Ledger(tmp_path, DIGEST)


@pytest.mark.parametrize("order", [(1, 2), (0, 2, 1), (0, 0, 1), (1, 0, 2)])
def test_lines_gone_or_moved_are_an_error(tmp_path: Path, order: tuple[int, ...]) -> None:
    written(tmp_path, "one", "two", "three")
    lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    (tmp_path / LEDGER).write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(CopgenError, match=r"line \d of .* is not what was written"):
        Ledger(tmp_path, DIGEST)


def test_a_ledger_of_another_request_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, "one", "two")
    with pytest.raises(CopgenError, match="line 1 of"):
        Ledger(tmp_path, "b" * 64)


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path: Path) -> None:
    ledger = written(tmp_path, "one")
    before = (tmp_path / LEDGER).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        for work in (lambda: ledger.record("two", []), lambda: ledger.forget("one")):
            with pytest.raises(CopgenError, match=r"cannot keep .*No space left.*run the same request again: what is"):
                work()
    # The folder's sync fails first in record; in forget the line itself does.
    assert (tmp_path / LEDGER).read_bytes() == before
    assert ledger.works == ("one",)
    ledger.record("two", [])
    assert Ledger(tmp_path, DIGEST).works == ("one", "two")


def test_a_file_that_is_not_there_cannot_be_recorded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, DIGEST)
    with pytest.raises(CopgenError, match=r"cannot keep .*none.bin \(No such file"):
        ledger.record("one", [tmp_path / "none.bin"])
    assert Ledger(tmp_path, DIGEST).works == ()


def test_an_array_comes_back_mapped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.npy"
    for array in (np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.uint8(7) * np.ones((1, 0, 2), np.uint8)):
        save_array(path, array[:, ::-1])
        found = open_array(path)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array[:, ::-1])
        assert not found.flags.writeable
        del found
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]


def test_an_array_that_does_not_fit_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    save_array(path, np.zeros(3))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CopgenError, match=r"cannot keep .*x.npy \(No space left.*run the same request again"):
        save_array(path, np.ones(3))
    np.testing.assert_array_equal(open_array(path), np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text", None])
def test_a_damaged_array_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(CopgenError, match=r"cannot read .*x.npy \(.*\); run the same request again"):
        open_array(tmp_path / "x.npy")
