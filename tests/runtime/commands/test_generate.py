"""``generate`` from the user's end: what lies in the folder, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.copgen_ref.world_scene import WorldScene
from copgen_edge.runtime import pipeline
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.modalities import BY_KEY, FAMILIES
from PIL import Image

from .conftest import Run


def pixels(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as dataset:
            found[path.name] = dataset.read()
    return found


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("arguments", [(), ("--no-cuda-graph",)])
def test_cuda_graphs_are_taken_unless_told_and_change_nothing_on_a_cpu(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asked: list[bool] = []

    def note(*given: Any, cuda_graph: bool, **options: Any) -> Any:
        asked.append(cuda_graph)
        return create_backend(*given, cuda_graph=cuda_graph, **options)

    monkeypatch.setattr(pipeline, "create_backend", note)
    outcome = generate("-g", "date", "--backend", "onnxruntime-cpu", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    assert asked == [not arguments]
    assert "cuda_graph" not in outcome.json["backend"]


def test_a_folder_of_samples(generate: Run, scene: WorldScene, tmp_path: Path) -> None:
    outcome = generate(
        "-c", f"LULC={scene.lulc}", "-c", "place=auto", "-c", "date=2021-07-14", "-g", "S2L2A,S1RTC,cloud_mask",
        "-n", 2, "--seed", 7, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    out = tmp_path / "out"
    result = outcome.json
    assert result == json.loads((out / "result.json").read_text())
    named = {entry["file"] for entry in result["files"]}
    assert named | {"result.json"} == set(leftovers(out))
    for entry in result["files"]:
        assert hashlib.sha256((out / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    keys = [*FAMILIES["S2L2A"], *FAMILIES["S1RTC"], *FAMILIES["cloud_mask"]]
    assert {entry["modality"] for entry in result["files"]} == {*keys, None}
    corner = None
    for key in keys:
        modality = BY_KEY[key]
        kinds = ("mode", "agreement") if modality.is_codes else ("mean", "std")
        for name in ("sample-0", "sample-1", *kinds):
            with rasterio.open(out / f"{key}.{name}.tif") as dataset:
                assert dataset.crs.to_epsg() == 32648
                assert (dataset.width, dataset.height) == (modality.size, modality.size)
                left, top = dataset.transform.c, dataset.transform.f
                assert dataset.transform == Affine(modality.resolution, 0, left, 0, -modality.resolution, top)
                assert (corner or (left, top)) == (left, top)
                corner = (left, top)
                assert dataset.tags()["COPGEN_SEED"] == "7"
    assert corner is not None
    left, bottom, right, top = result["window"]["bounds"]
    assert (left, top) == corner and (right - left, top - bottom) == (1920, 1920)
    assert result["backend"]["provider"] == "CPUExecutionProvider"
    assert result["steps"] == 2 and result["solver"] == "dpmpp-3s" and result["seed"] == 7
    assert set(result["conditions"]) == {"DEM_DEM", "LULC_LULC", "3d_cartesian_lat_lon", "mean_timestamps"}
    given = result["conditions"]["DEM_DEM"]["files"][0]
    assert given["sha256"] == hashlib.sha256(scene.dem.read_bytes()).hexdigest()
    assert set(result["seconds"]) == {"read", "encode", "denoise", "decode", "write"}
    with Image.open(out / "quicklook.png") as picture:
        assert picture.width > 500 and picture.height > 500
    assert "backend: onnxruntime-cpu" in outcome.err and "window" in outcome.err


def test_place_and_date_as_outputs(generate: Run) -> None:
    outcome = generate("-g", "place,date,LULC", "-n", 3, "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert len(result["place"]) == len(result["date"]) == 3
    assert all(-90 <= place["lat"] <= 90 and -180 <= place["lon"] <= 180 for place in result["place"])
    assert all(len(date.split("-")) == 3 for date in result["date"])
    assert {entry["modality"] for entry in result["files"]} == {"LULC_LULC", None}


def test_the_seed_decides_and_the_batch_does_not(generate: Run, tmp_path: Path) -> None:
    drawn = {}
    for name, arguments in {
        "first": ("--seed", 3),
        "again": ("--seed", 3, "--batch", 1),
        "low": ("--seed", 3, "--low-memory"),
        "other": ("--seed", 4),
    }.items():
        outcome = generate("-g", "S1RTC", "-n", 2, *arguments, out=tmp_path / name)
        assert outcome.code == 0, outcome.err
        drawn[name] = pixels(tmp_path / name)
    for name, values in drawn["first"].items():
        np.testing.assert_allclose(drawn["again"][name], values, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(drawn["low"][name], values)
        assert not np.allclose(drawn["other"][name], values, rtol=1e-2)


def test_another_condition_gives_another_result(run: Run, bundle: Path, scene: WorldScene, tmp_path: Path) -> None:
    for date in ("2021-01-14", "2021-07-14"):
        arguments = ("-c", f"date={date}", "-c", f"DEM={scene.dem}", "-g", "S1RTC", "--steps", 2)
        assert run("generate", bundle, *arguments, "--out", tmp_path / date).code == 0
    winter, summer = pixels(tmp_path / "2021-01-14"), pixels(tmp_path / "2021-07-14")
    assert not np.allclose(winter["S1RTC_vh_vv.sample-0.tif"], summer["S1RTC_vh_vv.sample-0.tif"], rtol=1e-3)


def test_quiet_says_nothing(generate: Run) -> None:
    outcome = generate("-g", "place", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-g", "S3"), "unknown modality 'S3'"),
        (("-c", "S3=x.tif", "-g", "S1RTC"), "unknown modality 'S3'"),
        (("-g", "DEM"), "both given and asked for"),
        (("-g", "S1RTC,DEM_DEM"), "both given and asked for"),
        (("-c", "DEM_DEM=other.tif", "-g", "S1RTC"), "DEM"),
        (("-c", "date=14.7.2021", "-g", "S1RTC"), "expected YYYY-MM-DD"),
        (("-c", "date=2021-02-30", "-g", "S1RTC"), "not in the calendar"),
        (("-c", "place=91,0", "-g", "S1RTC"), "off the globe"),
        (("-c", "place=Paris", "-g", "S1RTC"), "no place"),
        (("-c", "LULC=missing.tif", "-g", "S1RTC"), "missing.tif"),
        (("-c", "LULC={dem}", "-g", "S1RTC"), "LULC"),
        (("-c", "S1RTC={dem}", "-g", "LULC"), "S1RTC"),
        (("--window", "5000,5000", "-g", "S1RTC"), "leaves DEM"),
        (("--center", "10,10", "-g", "S1RTC"), "does not cover the window"),
        (("-g", "S1RTC", "--steps", "0"), "0 steps"),
        (("-g", "S1RTC", "--steps", "-3"), "-3 steps"),
        (("-g", "S1RTC", "--seed", "-1"), "seed -1"),
        (("-g", "S1RTC", "--samples", "0"), "0"),
        (("-g", ","), "nothing to generate"),
        (("-g", "S1RTC", "--backend", "onnxruntime-cuda"), "onnxruntime-cuda cannot run here"),
        (("-g", "S1RTC", "--precision", "fp16"), "fp16"),
        (("-c", "LULC", "-g", "S1RTC"), "NAME=VALUE"),
        (("-c", "LULC={lulc}", "--lulc-map", "1-2", "-g", "S1RTC"), "FROM:TO"),
        (("--window", "3", "-g", "S1RTC"), "two whole numbers"),
        (("--window", "9" * 400 + ",0", "-g", "S1RTC"), "two whole numbers"),
        (("-c", "LULC={lulc}", "--lulc-map", "9" * 400 + ":4", "-g", "S1RTC"), "FROM:TO"),
        (("-g", "date", "--samples", "9" * 20), "GB of memory"),
        (("-g", "S1RTC", "--threads", "9" * 20), "--threads"),
    ],
)
def test_refusals(generate: Run, scene: WorldScene, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    filled = [argument.format(dem=scene.dem, lulc=scene.lulc) for argument in arguments]
    outcome = generate(*filled)
    assert outcome.code == 2, outcome.err
    said = outcome.err.strip().splitlines()
    assert expected in said[-1], outcome.err
    assert said[-1].startswith("Error: ")
    # A misused option comes with click's usage above it; all else is one line.
    assert len(said) == 1 or said[0].startswith("Usage: ")
    assert leftovers(tmp_path) == []
    assert outcome.out == ""


def test_a_folder_that_holds_something_is_kept(generate: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    outcome = generate("-g", "place")
    assert outcome.code == 2 and "holds something already" in outcome.err
    assert leftovers(out) == ["precious.txt"] and leftovers(tmp_path) == ["out"]


def test_an_empty_folder_is_taken(generate: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert generate("-g", "place").code == 0
    assert leftovers(tmp_path / "out") == ["quicklook.png", "result.json"]


def test_a_folder_below_a_file_is_refused(generate: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = generate("-g", "place", out=tmp_path / "file" / "out")
    assert outcome.code == 2 and "choose another folder" in outcome.err


def test_too_little_disk(generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    outcome = generate("-g", "S1RTC", out=tmp_path / "new" / "out")
    assert outcome.code == 2 and "1 MB free" in outcome.err
    assert leftovers(tmp_path) == []


def test_memory_that_runs_out_is_said_in_one_line(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: OnnxRuntimeBackend, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise MemoryError("Unable to allocate 191. GiB")

    monkeypatch.setattr(OnnxRuntimeBackend, "run", exhausted)
    outcome = generate("-g", "date")
    assert outcome.code == 1
    assert outcome.err.strip().splitlines()[-1].startswith("Error: not enough memory (Unable to allocate 191. GiB)")
    assert leftovers(tmp_path) == []


def test_a_value_that_is_not_finite_writes_nothing(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeBackend.run
    calls = []

    def poisoned(self: OnnxRuntimeBackend, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = run(self, component, inputs)
        calls.append(component)
        if calls.count(STEP) == 2:
            found["noise"][0, -1] = np.nan
        return found

    monkeypatch.setattr(OnnxRuntimeBackend, "run", poisoned)
    outcome = generate("-g", "date")
    assert outcome.code == 1
    assert "dit_step" in outcome.err and "step 2 of 2" in outcome.err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["tampered", "truncated", "missing", "manifest"])
def test_a_damaged_bundle(run: Run, bundle: Path, scene: WorldScene, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    victim = copy / ("manifest.json" if damage == "manifest" else f"onnx/{STEP}.fp32.onnx")
    content = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    elif damage == "tampered":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.write_bytes(content[: len(content) // 2])
    outcome = run("generate", copy, "-c", f"DEM={scene.dem}", "-g", "date", "--steps", 1, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert victim.name in outcome.err.strip().splitlines()[-1]
    assert leftovers(tmp_path) == ["bundle"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_leaves_nothing(bundle: Path, scene: WorldScene, tmp_path: Path, name: str) -> None:
    arguments = ("-c", f"DEM={scene.dem}", "-g", "S2L2A", "--steps", "1000", "--out", tmp_path / "out")
    command = [sys.executable, "-m", "copgen_edge.runtime.commands", "generate", bundle, *arguments]

    def heed() -> None:
        # Tests that are run in the background or under nohup hand down signals that are ignored.
        signal.signal(getattr(signal, name), signal.SIG_DFL)

    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    deadline = time.monotonic() + 60
    while not leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(tmp_path), "the run did not begin"
    os.kill(process.pid, getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == (1 if name == "SIGINT" else 128 + getattr(signal, name))
    assert "Traceback" not in said
    assert leftovers(tmp_path) == []
