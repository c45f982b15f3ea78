"""The format of recorded trajectories: what is read back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.calibration.trajectories import MANIFEST, Entry, RecordedRun, Trajectories, manifest_text, spread
from copgen_edge.runtime.bundle import FileRecord, sha256
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError
from copgen_edge.runtime.modalities import JOINT_SIZE, KEYS
from safetensors.numpy import save_file

SHARD = "run-00000.safetensors"
ENCODER = "encoder_S2L2A_B01_B09"

Content = dict[str, Any]


def tensors(run: int) -> dict[str, Any]:
    rows = np.arange(3, dtype=np.float16)[:, None] + run * 10
    return {
        f"{STEP}/latents": np.repeat(rows, JOINT_SIZE, axis=1),
        f"{STEP}/timesteps": np.full((3, len(KEYS)), 1000 / 3, np.float32),
        f"{ENCODER}/image": np.full((1, 2, 32, 32), run, np.float16),
    }


def write(root: Path, run: int, arrays: dict[str, Any]) -> RecordedRun:
    path = root / f"run-{run:05d}.safetensors"
    save_file(arrays, path)
    steps = [Entry(STEP, row, 0, call, 1000.0 - 250 * call) for row, call in enumerate((0, 1, 3))]
    return RecordedRun(
        f"patch {run}",
        run,
        dict.fromkeys(KEYS, "generated") | {"DEM_DEM": "given"},
        FileRecord.of(root, path),
        (*steps, Entry(ENCODER, 0, 0)),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of four calls, of which three were kept."""
    runs = [write(tmp_path, run, tensors(run)) for run in range(2)]
    text = manifest_text("b" * 64, {"weights": "made up"}, "ddim", 4, runs, seed=5)
    (tmp_path / MANIFEST).write_text(text)
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    found = Trajectories.open(str(folder))
    assert (found.bundle, found.model, found.solver, found.steps) == ("b" * 64, {"weights": "made up"}, "ddim", 4)
    assert found.digest == sha256(folder / MANIFEST)
    assert [(run.source, run.seed, run.roles["DEM_DEM"]) for run in found.runs] == [
        ("patch 0", 0, "given"),
        ("patch 1", 1, "given"),
    ]
    assert found.runs[1].entries[2] == Entry(STEP, 2, 0, 3, 250.0)
    assert json.loads((folder / MANIFEST).read_text())["made"] == {"seed": 5}
    again = manifest_text("b" * 64, found.model, "ddim", 4, found.runs, seed=5)
    assert again == (folder / MANIFEST).read_text()


def test_rows_of_a_run_in_the_order_asked_for(folder: Path) -> None:
    found = Trajectories.open(folder)
    run = found.runs[1]
    inputs = found.inputs(run, [run.entries[2], run.entries[0]])
    assert inputs["latents"].shape == (2, JOINT_SIZE) and inputs["latents"].dtype == np.float32
    assert inputs["latents"][:, 0].tolist() == [12, 10] and inputs["latents"].flags.c_contiguous
    # Half precision would make 333.25 of a third of a thousand.
    np.testing.assert_array_equal(inputs["timesteps"], np.full((2, 12), 1000 / 3, np.float32))


def test_rows_one_by_one(folder: Path) -> None:
    found = Trajectories.open(folder)
    assert [(run.seed, entry.row) for run, entry in found.entries(STEP)] == [
        (r, row) for r in (0, 1) for row in (0, 1, 2)
    ]
    assert [inputs["latents"][0, 0] for inputs in found.rows(STEP)] == [0, 1, 2, 10, 11, 12]
    assert [inputs["latents"][0, 0] for inputs in found.rows(STEP, 3)] == [0, 2, 12]
    assert [inputs["image"].shape for inputs in found.rows(ENCODER)] == [(1, 2, 32, 32)] * 2
    assert not list(found.rows("decoder_DEM_DEM"))


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(5, 9, [0, 1, 2, 3, 4]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (4, 1, [0]), (0, 3, [])],
)
def test_spread(count: int, most: int, expected: list[int]) -> None:
    assert spread(count, most) == expected


def test_a_folder_without_a_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    for path in (folder, folder / "no" / "such"):
        with pytest.raises(CalibrationError, match=r"holds no recorded trajectories .* 'copgen-edge calibrate record'"):
            Trajectories.open(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [Path.unlink, cut, turn_a_bit, make_a_folder])
def test_damaged_files(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "run-00001.safetensors")
    with pytest.raises(CalibrationError, match=r"run-00001\.safetensors is missing or not what was recorded; record"):
        Trajectories.open(folder)


def change(*path: Any, to: Any) -> Callable[[Content], None]:
    def apply(content: Content) -> None:
        *parents, last = path
        inner: Any = content
        for part in parents:
            inner = inner[part]
        inner[last] = to

    return apply


def drop(name: str) -> Callable[[Content], None]:
    return lambda content: content.pop(name)


FIRST = ("runs", 0, "entries", 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("schema_version", to=2), "schema version 2, this program reads 1"),
        (drop("bundle"), "it has no 'bundle'"),
        (drop("runs"), "it has no 'runs'"),
        (change("runs", to=[]), "it has no runs"),
        (change("runs", to=[1]), "not subscriptable"),
        (change("model", to=3), "not iterable"),
        (change("solver", to="euler"), "solver 'euler' with 4 steps"),
        (change("steps", to=True), "with True steps"),
        (change("steps", to=10**9), "with 1000000000 steps"),
        (change("runs", 0, "roles", "DEM_DEM", to="taken"), "are not one of given, generated, absent"),
        (change("runs", 0, "roles", to={"DEM_DEM": "given"}), "are not one of given, generated, absent"),
        (change("runs", 0, "seed", to=float("inf")), "seed inf is no whole number"),
        (change("runs", 0, "file", "path", to="../run-00000.safetensors"), "leaves the recording"),
        (change("runs", 0, "file", "path", to="/etc/passwd"), "leaves the recording"),
        (change("runs", 0, "file", "path", to=7), "7|int"),
        (change("runs", 0, "file", "more", to=7), "unexpected keyword argument 'more'"),
        (change(*FIRST, "component", to="encoder_FOO"), "an entry of 'encoder_FOO', which is no component"),
        (change(*FIRST, "component", to=["list"]), "list"),
        (change(*FIRST, "row", to=-1), "row -1 is no whole number"),
        (change(*FIRST, "sample", to="0"), "sample '0' is no whole number"),
        (change(*FIRST, "call", to=4), "call 4 of a run of 4"),
        (change(*FIRST, "call", to=None), "call None is no whole number"),
        (change(*FIRST, "timestep", to=None), "with timestep None"),
        (change(*FIRST, "timestep", to=float("nan")), "with timestep nan"),
        (change(*FIRST, "timestep", to=1000.5), "with timestep 1000.5"),
        (change("runs", 0, "entries", 3, "call", to=0), f"an entry of {ENCODER} with call 0"),
    ],
)
def test_manifests_that_cannot_be_used(folder: Path, spoil: Callable[[Content], None], message: str) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    spoil(content)
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=message) as caught:
        Trajectories.open(folder)
    assert str(folder / MANIFEST) in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; record the trajectories again")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_none(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CalibrationError, match=r"manifest\.json cannot be used \(.*\); record the trajectories again"):
        Trajectories.open(folder)


@pytest.mark.parametrize("path", [".", "..", ""])
def test_a_file_that_is_a_folder(folder: Path, path: str) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["runs"][0]["file"]["path"] = path
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match="record the trajectories again"):
        Trajectories.open(folder)


def write_nonsense(path: Path) -> None:
    path.write_bytes(b"no tensors at all")


def write_other_shapes(path: Path) -> None:
    save_file(tensors(0) | {f"{STEP}/latents": np.zeros((3, 7), np.float16)}, path)


def write_other_types(path: Path) -> None:
    save_file(tensors(0) | {f"{STEP}/latents": np.zeros((3, JOINT_SIZE), np.int64)}, path)


def write_fewer_rows(path: Path) -> None:
    save_file({name: array[:1] for name, array in tensors(0).items()}, path)


def write_fewer_tensors(path: Path) -> None:
    save_file({f"{STEP}/latents": tensors(0)[f"{STEP}/latents"]}, path)


@pytest.mark.parametrize(
    "rewrite", [write_nonsense, write_other_shapes, write_other_types, write_fewer_rows, write_fewer_tensors]
)
def test_files_that_are_what_was_recorded_and_make_no_sense(folder: Path, rewrite: Callable[[Path], None]) -> None:
    rewrite(folder / SHARD)
    content = json.loads((folder / MANIFEST).read_text())
    record = content["runs"][0]["file"]
    record.update(bytes=(folder / SHARD).stat().st_size, sha256=sha256(folder / SHARD))
    (folder / MANIFEST).write_text(json.dumps(content))
    found = Trajectories.open(folder)
    with pytest.raises(CalibrationError, match=rf"{SHARD} cannot be read \(.*\); record the trajectories again"):
        found.inputs(found.runs[0], found.runs[0].entries[:3])


def test_a_file_that_goes_after_it_was_opened(folder: Path) -> None:
    found = Trajectories.open(folder)
    (folder / SHARD).unlink()
    with pytest.raises(CalibrationError, match=rf"{SHARD} cannot be read"):
        next(found.rows(STEP))
