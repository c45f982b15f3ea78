"""The working folder of a scene: killed at any point it goes on, and no two processes or requests share it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from copgen_edge.runtime.errors import CopgenError, RequestError
from copgen_edge.runtime.scene import workplace as workplaces
from copgen_edge.runtime.scene.workplace import PROCESS, REQUEST, RESULT, scene_folder

from .small_pipeline import FINGERPRINT, STEPS, run, tree

SCRIPT = Path(__file__).with_name("small_pipeline.py")


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, words)], **pipes, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def begin(out: Path, fingerprint: dict[str, Any] = FINGERPRINT) -> Path:
    """Unfinished work of a request, with one step recorded; its folder."""
    with pytest.raises(ValueError, match="stop"), scene_folder(out, fingerprint) as place:
        place.ledger.record("begun", [])
        raise ValueError("stop")
    return out.parent / f".{out.name}.scene"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on ``out``."""
    with start("hold", tmp_path / "out") as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize(("mode", "stride"), [("kill", 1), ("power-cut", 3), ("twice", 7)])
def test_killed_at_any_point_a_second_start_ends_with_the_same_files(tmp_path: Path, mode: str, stride: int) -> None:
    with start("die", mode, stride, tmp_path) as process:
        points, said = process.communicate()
    assert process.returncode == 0, said
    assert int(points) > 100


def test_the_result_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with scene_folder(out, {}) as place:
        assert place.result.parent == place.root == tmp_path / "a" / ".out.scene"
        (place.root / "scratch.bin").write_text("scratch")
        (place.result / "x.txt").write_text("x")
        assert not out.exists()
    assert names(tmp_path / "a") == ["out"]
    assert tree(out).keys() == {"x.txt"}


@pytest.mark.parametrize("error", [ValueError("inside"), KeyboardInterrupt(), SystemExit(143)])
def test_after_a_failure_only_what_is_recorded_is_there_again(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with scene_folder(out, FINGERPRINT) as place:
            for path in (place.result / "kept.bin", place.root / "deep" / "kept.bin"):
                path.parent.mkdir(exist_ok=True)
                path.write_text("kept")
            place.ledger.record("kept", [place.result / "kept.bin", place.root / "deep" / "kept.bin"], more=1)
            for path in (place.result / "half" / "x.tif", place.result / "x.aux.xml", place.root / "y.npy.partial"):
                path.parent.mkdir(exist_ok=True)
                path.write_text("half")
            (place.root / "link").symlink_to(tmp_path)
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert names(tmp_path) == [".out.scene"]
    with scene_folder(out, FINGERPRINT) as place:
        assert place.ledger.finished("kept") == {"more": 1}
        assert names(place.result) == ["kept.bin"]
        assert names(place.root) == ["deep", "ledger.jsonl", PROCESS, REQUEST, RESULT]
    assert names(tmp_path) == ["out"]


def test_a_failure_before_anything_is_recorded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), scene_folder(tmp_path / "a" / "out", FINGERPRINT) as place:
        (place.root / "x.bin").write_text("x")
        raise ValueError("inside")
    assert names(tmp_path) == []


def test_of_two_processes_the_second_is_refused_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(RequestError, match=rf"^process {held.pid} on .* is at work on .*out; wait until it is done"),
        scene_folder(tmp_path / "out", FINGERPRINT),
    ):
        pytest.fail("the block must not run")
    with start("run", tmp_path / "out") as third:
        assert "is at work on" in third.communicate()[1] and third.returncode == 1
    held.send_signal(signal.SIGKILL)
    held.wait()
    with scene_folder(tmp_path / "out", FINGERPRINT) as place:
        assert place.ledger.works == ("begun",)
        with pytest.raises(RequestError, match=rf"process {os.getpid()} on"), scene_folder(tmp_path / "out", {}):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["out"]


def test_another_request_is_refused_while_the_first_is_at_work(tmp_path: Path, held: subprocess.Popen[str]) -> None:
    with pytest.raises(RequestError, match="at work on"), scene_folder(tmp_path / "out", {"seed": 1}):
        pytest.fail("the block must not run")
    with scene_folder(tmp_path / "other", {"seed": 1}):
        pass


def test_another_request_is_told_what_differs(tmp_path: Path) -> None:
    there = {
        "seed": 0,
        "bbox": None,
        "conditions": {"DEM": [{"path": "a.tif", "sha256": "a" * 64}], "LULC": {"sha256": "c" * 64}},
        "bundle": {"manifest_sha256": "1" * 64},
        "outputs": ["S2L2A", "cloud_mask"],
        "solver": "x\ny",
    }
    here = {
        "seed": 1,
        "bbox": [7.5, 46.0, 7.75, 46.25],
        "conditions": {"DEM": [{"path": "a.tif", "sha256": "b" * 64}], "S1RTC": {"sha256": "c" * 64}},
        "bundle": {"manifest_sha256": "2" * 64},
        "outputs": ["S2L2A"],
        "solver": "z" * 99,
    }
    folder = begin(tmp_path / "out", there)
    before = tree(folder)
    with pytest.raises(RequestError) as caught, scene_folder(tmp_path / "out", here):
        pytest.fail("the block must not run")
    message = str(caught.value)
    for phrase in (
        "bbox none there, [7.5, 46.0, 7.75, 46.25] here; ",
        "bundle manifest_ has another SHA-256; ",
        "conditions DEM 0 has another SHA-256; ",
        "conditions LULC only there; conditions S1RTC only here; ",
        'outputs ["S2L2A", "cloud_mask"] there, ["S2L2A"] here; and 2 more); repeat that request, ',
        f"start anew after rm -r {folder}",
    ):
        assert phrase in message
    assert "\n" not in message
    assert tree(folder) == before
    with scene_folder(tmp_path / "out", dict(reversed(there.items()))) as place:
        assert place.ledger.works == ("begun",)


@pytest.mark.parametrize("change", [{"seed": 0.0}, {"seed": "0"}, {"seed": False}, {"seed": 0, "bbox": None}, {}])
def test_requests_that_nearly_agree_are_two(tmp_path: Path, change: dict[str, Any]) -> None:
    begin(tmp_path / "out", {"seed": 0})
    with pytest.raises(RequestError, match="of another request"), scene_folder(tmp_path / "out", change):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"digest": 1, "fingerprint": {}}', b"[" * 99999, b"\xff"])
def test_a_damaged_request_is_an_error(tmp_path: Path, content: bytes) -> None:
    folder = begin(tmp_path / "out")
    (folder / REQUEST).write_bytes(content)
    with pytest.raises(RequestError, match=r"request.json is not what was written there; start anew after rm -r"):
        run(tmp_path / "out")
    assert names(tmp_path) == [".out.scene"]


def test_a_foreign_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / ".out.scene"
    for path in (foreign, foreign / RESULT):
        path.mkdir(exist_ok=True)
        (path / "mine.txt").write_text("mine")
        with pytest.raises(RequestError, match=r"holds mine.txt and is no unfinished scene; move it away"):
            run(tmp_path / "out")
        assert (path / "mine.txt").exists()
        (path / "mine.txt").unlink()
    (foreign / RESULT).rmdir()
    foreign.rmdir()
    foreign.write_text("mine")
    with pytest.raises(RequestError, match=r"cannot make .*choose another folder"):
        run(tmp_path / "out")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", ["file", "full folder"])
def test_an_output_that_holds_something_is_refused_and_never_touched(tmp_path: Path, kind: str, begun: bool) -> None:
    out = tmp_path / "a" / "out"
    if begun:
        begin(out)
    out.parent.mkdir(exist_ok=True)
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(RequestError, match="holds something already; name a new folder"):
        run(out)
    assert tree(tmp_path) == before


def test_an_output_that_came_meanwhile_costs_no_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps: list[str] = []

    def intrude(work: str) -> None:
        steps.append(work)
        if work == "statistics":
            out.mkdir()
            (out / "other.txt").write_text("other")

    with pytest.raises(CopgenError, match=r"the scene is done, and its folder .* cannot become .*out \("):
        run(out, step=intrude)
    assert names(out) == ["other.txt"]
    shutil.rmtree(out)
    run(out, step=steps.append)
    assert len(steps) == STEPS


def test_a_run_killed_after_its_end_is_said_to_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workplaces, "_remove", lambda folder: None)
    run(tmp_path / "out")
    assert names(tmp_path) == [".out.scene", "out"]
    monkeypatch.undo()
    before = tree(tmp_path / "out")
    with pytest.raises(RequestError, match=r"out is finished: the run that made it ended just after"):
        run(tmp_path / "out")
    assert names(tmp_path) == ["out"] and tree(tmp_path / "out") == before


def test_the_same_request_after_its_output_was_moved_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplaces, "_remove", lambda folder: None)
    run(tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out").rename(tmp_path / "moved")
    run(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "moved")
    assert names(tmp_path) == ["moved", "out"]


def test_a_link_is_followed_and_an_empty_folder_filled(tmp_path: Path) -> None:
    (tmp_path / "disk" / "target").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "target")
    run(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == ["target"] and names(tmp_path / "link") == ["item.json", "notes.txt", "samples"]


@pytest.mark.parametrize("out", [Path("/"), Path("/tmp"), Path("/proc/none/out"), Path("x" * 300), Path("x" * 250)])
def test_a_place_that_cannot_be_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"name a new folder|choose another folder"):
        run(out)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(RequestError, match="choose another folder"):
        run(tmp_path / "locked" / "out")
    folder = begin(tmp_path / "out")
    folder.chmod(0o555)
    with pytest.raises(CopgenError, match="see to its disk's room and permissions"):
        run(tmp_path / "out")
    folder.chmod(0o755)
    run(tmp_path / "out")


@pytest.mark.parametrize("limit", [0, 50, 120, 200, 230, 500, 800, 1200])
def test_where_files_can_grow_no_further_it_says_so_and_goes_on_later(tmp_path: Path, limit: int) -> None:
    with start("limit", tmp_path / "out", limit) as process:
        said = process.communicate()[1]
    assert process.returncode == 1
    assert "run the same request again: what is finished stays" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    steps: list[str] = []
    run(tmp_path / "out", step=steps.append)
    run(tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert names(tmp_path) == ["out", "whole"]
    assert len(steps) < STEPS or limit < 1000


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, CopgenError), (errno.EIO, OSError)])
def test_a_full_disk_in_the_middle_of_a_file_is_told_as_such(tmp_path: Path, number: int, kind: type) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(kind) as caught:
        run(tmp_path / "out", point=fail)
    assert ("make room on its disk and run the same request again" in str(caught.value)) == (kind is CopgenError)
    assert names(tmp_path) == [".out.scene"]
    run(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_disk_that_fills_up_and_is_emptied(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    steps: list[str] = []

    def fill(work: str) -> None:
        steps.append(work)
        if work == "denoise call 1":
            with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 1024)

    try:
        with pytest.raises(CopgenError, match=r"\(No space left on device\).*run the same request again"):
            run(disk / "out", step=fill)
        assert names(disk) == [".out.scene", "filler"]
        (disk / "filler").unlink()
        run(disk / "out", step=steps.append)
        run(tmp_path / "whole")
        assert tree(disk / "out") == tree(tmp_path / "whole")
        assert len(steps) == STEPS
    finally:
        # Lazily: the error's frames hold arrays that are mapped from there.
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fails_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: Path, out: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(workplaces, "rename_whole", fail)
    with pytest.raises(CopgenError, match=r"cannot become .*\(Input/output error\).*run the same request again"):
        run(tmp_path / "out")
    monkeypatch.undo()
    steps: list[str] = []
    run(tmp_path / "out", step=steps.append)
    assert steps == [] and names(tmp_path) == ["out"]


def test_the_fingerprint_is_there_to_read(tmp_path: Path) -> None:
    with scene_folder(tmp_path / "out", {"b": (1, 2), "a": "Å\udcff"}) as place:
        content = json.loads((place.root / REQUEST).read_text())
        assert content == {"digest": place.digest, "fingerprint": {"a": "Å\udcff", "b": [1, 2]}}
        assert len(place.digest) == 64
