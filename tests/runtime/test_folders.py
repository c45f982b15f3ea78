"""Output folders and files: whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.folders import locked, new_folder, whole_file


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with new_folder(out, 0) as work:
        assert work.parent == out.parent
        assert not out.exists()
        (work / "x.txt").write_text("x")
    assert tree(tmp_path) == ["a", "a/b", "a/b/out", "a/b/out/x.txt"]


def test_an_empty_folder_that_is_there_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out, 0) as work:
        (work / "x.txt").write_text("x")
    assert tree(tmp_path) == ["out", "out/x.txt"]


@pytest.mark.parametrize("error", [ValueError("inside"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, error: BaseException) -> None:
    def fail(work: Path) -> None:
        (work / "deep").mkdir()
        (work / "deep" / "x.txt").write_text("x")
        raise error

    with pytest.raises(type(error)) as caught, new_folder(tmp_path / "a" / "out", 0) as work:
        fail(work)
    assert caught.value is error
    assert tree(tmp_path) == []


def test_an_empty_folder_is_still_there_after_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="inside"), new_folder(out, 0):
        raise ValueError("inside")
    assert tree(tmp_path) == ["out"]


def test_what_another_program_put_beside_it_stays_and_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), new_folder(tmp_path / "a" / "b" / "out", 0):
        (tmp_path / "a" / "other.txt").write_text("other")
        raise ValueError("inside")
    assert tree(tmp_path) == ["a", "a/other.txt"]


@pytest.mark.parametrize("kind", ["file", "full folder"])
def test_what_is_there_is_never_touched(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(RequestError, match=r"holds something already; name a new folder"), new_folder(out, 0):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == before


def test_too_little_room_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 5_000_000))
    with (
        pytest.raises(RequestError, match=r"5 MB free and the result needs up to 7 MB; make room"),
        new_folder(tmp_path / "a" / "out", 7_000_000),
    ):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == []
    with new_folder(tmp_path / "out", 5_000_000):
        pass
    assert tree(tmp_path) == ["out"]


def test_a_file_in_the_way_of_a_parent_is_a_request_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="choose another folder"), new_folder(tmp_path / "file" / "out", 0):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_is_read_only_is_a_request_error(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for out in (locked / "out", locked / "a" / "out"):
        with pytest.raises(RequestError, match="choose another folder"), new_folder(out, 0):
            pytest.fail("the block must not run")
    assert tree(tmp_path) == ["locked"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self == out)
    with pytest.raises(RequestError, match=r"mount point.*name a new folder in it"), new_folder(out, 0):
        pytest.fail("the block must not run")
    with new_folder(out / "run", 0):
        pass
    assert tree(tmp_path) == ["out", "out/run"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "disk" / "target"
    target.parent.mkdir()
    if there:
        target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    with new_folder(link, 0) as work:
        (work / "x.txt").write_text("x")
    assert link.is_symlink()
    assert (target / "x.txt").read_text() == "x"
    assert tree(tmp_path / "disk") == ["target", "target/x.txt"]


def test_a_relative_path_and_the_empty_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with new_folder(Path(), 0) as work:
        (work / "x.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert tree(tmp_path) == ["here", "here/x.txt"]
    with new_folder(Path("there/out"), 0):
        pass
    assert (tmp_path / "there" / "out").is_dir()


def test_the_folder_has_an_ordinary_folders_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out", 0) as work:
            assert stat.S_IMODE(work.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
        again = os.umask(0o027)
        assert again == 0o027
    finally:
        os.umask(mask)


def test_of_two_that_make_one_folder_the_later_fails_and_harms_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError), new_folder(out, 0) as slow:
        (slow / "slow.txt").write_text("slow")
        with new_folder(out, 0) as fast:
            (fast / "fast.txt").write_text("fast")
    assert tree(tmp_path) == ["out", "out/fast.txt"]


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.txt"
    for text in ("one", "two"):
        with whole_file(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert tree(tmp_path) == ["deep", "deep/x.txt"]


@pytest.mark.parametrize("error", [ValueError("inside"), KeyboardInterrupt()])
def test_a_file_that_was_there_stays_when_the_block_fails(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before" and tree(tmp_path) == ["x.txt"]


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="choose another folder"), whole_file(tmp_path / "file" / "x.txt"):
        pass


def test_a_file_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    order: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append((os.fstat(descriptor).st_ino, path.exists())))
    with whole_file(path) as partial:
        partial.write_text("x")
    assert order == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_that_lock_the_second_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else path.write_text("x")
    with locked(path, "first"), pytest.raises(RequestError, match=r"^second$"), locked(path, "second"):
        pytest.fail("the block must not run")
    with locked(path, "third"):
        pass


def test_what_was_removed_while_it_was_waited_for_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.open

    def open_and_lose(path: Path, flags: int) -> int:
        descriptor = plain(path, flags)
        path.rmdir()
        if path.name == "made anew":
            path.mkdir()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    for name in ("made anew", "gone"):
        (tmp_path / name).mkdir()
        # A number that is in use is not given to the new folder.
        with pytest.raises(RequestError, match=r"^taken$"), locked(tmp_path / name, "taken"):
            pytest.fail("the block must not run")
    with pytest.raises(RequestError, match=r"^taken$"), locked(tmp_path / "never there", "taken"):
        pytest.fail("the block must not run")


def test_a_disk_that_knows_no_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(RequestError, match=r"cannot be locked \(No locks available\).*local disk"),
        locked(tmp_path, ""),
    ):
        pytest.fail("the block must not run")
