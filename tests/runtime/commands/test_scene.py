"""``copgen-edge scene``, as a user meets it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from click.testing import CliRunner, Result
from copgen_edge.runtime.commands import main
from copgen_edge.runtime.modalities import get
from rasterio.transform import Affine

LEFT, TOP = 500_040.0, 5_600_040.0


def raster(path: Path, values: np.ndarray, resolution: int, nodata: float | None = None) -> Path:
    """``values`` (H, W) in UTM 31 N, its upper-left corner at LEFT, TOP."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=values.shape[0],
        width=values.shape[1],
        dtype=values.dtype,
        crs="EPSG:32631",
        transform=Affine(resolution, 0, LEFT, 0, -resolution, TOP),
        nodata=nodata,
    ) as dataset:
        dataset.write(values, 1)
    return path


@pytest.fixture
def dem(tmp_path: Path) -> Path:
    """Elevation of 2880 x 2460 m."""
    rng = np.random.default_rng(0)
    return raster(tmp_path / "dem.tif", rng.uniform(1, 900, (82, 96)).astype(np.float32), 30)


@pytest.fixture
def cover(tmp_path: Path) -> Path:
    """Land cover of 2880 x 2460 m."""
    rng = np.random.default_rng(1)
    return raster(tmp_path / "cover.tif", rng.choice([1, 2, 5, 11], (246, 288)).astype(np.uint8), 10)


def scene(bundle: Path, out: Path, *arguments: str) -> Result:
    start = ["scene", str(bundle), "--backend", "onnxruntime-cpu", "--steps", "2", "--out", str(out)]
    return CliRunner().invoke(main, [*start, *arguments])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content, times of making left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix in (".json", ".html"):
                created = json.loads((folder / "result.json").read_text())["created"]
                for spelt in (created, zulu := created.replace("+00:00", "Z"), re.sub("[-:]", "", zulu)):
                    content = content.replace(spelt.encode(), b"")
            found[path.relative_to(folder).as_posix()] = content
    return found


def test_a_scene_is_whole_and_lies_where_it_should(bundle: Path, dem: Path, cover: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = ["S1RTC", "S2L2A_B05_B06_B07_B11_B12_B8A", "S2L2A_B01_B09", "cloud_mask", "date"]
    arguments = ["-c", f"DEM={dem}", "-c", f"LULC={cover}", "-c", "place=auto", "-g", ",".join(wanted)]
    done = scene(bundle, out, *arguments, "--samples", "2", "--keep-samples", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert result["grid"]["bounds"] == [LEFT, TOP - 2460, LEFT + 2880, TOP]
    assert result["grid"]["windows"] == 4
    assert len(result["date"]) == 2
    kinds: dict[str, set[str]] = {}
    for entry in result["files"]:
        kinds.setdefault(entry["modality"], set()).add(entry["kind"])
        if not entry["file"].endswith(".tif"):
            continue
        with rasterio.open(out / entry["file"]) as dataset:
            resolution = get(entry["modality"]).resolution if entry["modality"] else 10
            assert dataset.crs.to_epsg() == 32631
            assert dataset.transform == Affine(resolution, 0, LEFT, 0, -resolution, TOP)
            assert dataset.shape == (2460 // resolution, 2880 // resolution)
            assert dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
            assert dataset.tags()["COPGEN_SEED"] == "0"
    assert {"mean", "std", "quantiles", "sample"} <= kinds["S1RTC_vh_vv"]
    assert {"mode", "probability", "entropy", "sample"} <= kinds["S2L1C_cloud_mask"]
    with rasterio.open(out / "S1RTC_vh_vv.mean.tif") as mean:
        samples = []
        for number in range(2):
            with rasterio.open(out / f"S1RTC_vh_vv.sample-{number}.tif") as sample:
                samples.append(sample.read())
        np.testing.assert_allclose(mean.read(), np.mean(samples, axis=0), rtol=1e-6)
    item = pystac.Item.from_file(str(out / "item.json"))
    assert {Path(asset.href).name for asset in item.assets.values()} >= {"S1RTC_vh_vv.mean.tif"}
    assert (out / "index.html").is_file()
    assert not list(tmp_path.glob(".out*"))


def test_a_scene_of_one_window_has_the_pixels_of_generate(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = raster(tmp_path / "one.tif", rng.uniform(1, 900, (64, 64)).astype(np.float32), 30)
    arguments = ["-c", f"DEM={one}", "-c", "place=auto", "-c", "date=2023-07-14", "-g", "S2L2A,LULC", "--seed", "9"]
    done = scene(bundle, tmp_path / "scene", *arguments, "--samples", "2", "--keep-samples")
    assert done.exit_code == 0, done.output
    start = ["generate", str(bundle), "--backend", "onnxruntime-cpu", "--steps", "2", "--out", str(tmp_path / "one")]
    done = CliRunner().invoke(main, [*start, *arguments, "--samples", "2"])
    assert done.exit_code == 0, done.output
    compared = 0
    for path in (tmp_path / "one").glob("*.sample-*.tif"):
        with rasterio.open(path) as a, rasterio.open(tmp_path / "scene" / path.name) as b:
            np.testing.assert_array_equal(a.read(), b.read())
            assert (a.transform, a.crs, a.nodata, a.scales) == (b.transform, b.crs, b.nodata, b.scales)
        compared += 1
    assert compared == 8


def test_a_dry_run_says_what_would_be_done_and_does_nothing(bundle: Path, dem: Path, tmp_path: Path) -> None:
    done = scene(bundle, tmp_path / "out", "-c", f"DEM={dem}", "-g", "LULC", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["windows"] == 4
    assert plan["calls"] == 2
    assert plan["memory_bytes"] > plan["state_bytes"] > 0
    assert "windows: 2 x 2" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dem.tif"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    done = scene(bundle, tmp_path / "out", "-c", f"DEM={dem}", "-g", "LULC", "--dry-run")
    assert done.exit_code == 2 and "holds something already" in done.stderr


def test_gaps_are_filled_or_absent_and_both_are_told(bundle: Path, cover: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1, 900, (82, 96)).astype(np.float32)
    values[:5, :5] = np.nan
    holes = raster(tmp_path / "holes.tif", values, 30, nodata=float("nan"))
    done = scene(bundle, tmp_path / "out", "-c", f"DEM={holes}", "-c", f"LULC={cover}", "-g", "S2L2A_B01_B09", "--json")
    assert done.exit_code == 0, done.output
    missing = json.loads(done.stdout)["missing"]
    assert missing["DEM_DEM"]["filled"] == pytest.approx(25 / (82 * 96), abs=1e-5)
    assert missing["LULC_LULC"] == {"observed": 1.0, "filled": 0.0, "absent": 0.0, "absent_windows": 0}
    with rasterio.open(tmp_path / "out" / "validity.tif") as dataset:
        validity = dataset.read()
    assert validity.shape == (2, 246, 288)
    assert (validity[0, :15, :15] == 2).all()
    assert np.count_nonzero(validity[0] == 2) == 225
    assert (validity[1] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-g", "LULC"], "bbox"),
        (["-c", "DEM={dem}", "-g", "DEM"], "DEM_DEM is both given and asked for"),
        (["-c", "DEM={dem}", "-c", "place=1,2", "-g", "LULC"], "expected place=auto"),
        (["-c", "DEM={dem}", "-c", "date=auto", "-g", "LULC"], "no input tells its sensing date"),
        (["-c", "DEM={dem}", "-g", "LULC", "--overlap", "30"], "30"),
        (["-c", "DEM={dem}", "-g", "LULC", "--bbox", "1,2,3"], "west,south,east,north"),
        (["-c", "DEM={dem}", "-g", "nothing"], "unknown modality"),
        (["-c", "DEM=nowhere.tif", "-g", "LULC"], "does not exist"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    bundle: Path, dem: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = scene(bundle, tmp_path / "out", *(argument.format(dem=dem) for argument in arguments))
    assert done.exit_code == 2, done.output
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.output
    assert not list(tmp_path.glob("*out*"))


_KILLED = """
import os, signal, sys
from copgen_edge.runtime.commands import main
from copgen_edge.runtime.scene import ledger, stages

stages.KEEP_EVERY_S = 0.0
at, when = int(sys.argv.pop(1)), sys.argv.pop(1)
count = 0
real = ledger.Ledger.record

def record(self, *given, **values):
    global count
    count += 1
    if count == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(self, *given, **values)
    if count == at and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

ledger.Ledger.record = record
main(sys.argv[1:])
"""


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_files(
    bundle: Path, dem: Path, cover: Path, tmp_path: Path
) -> None:
    arguments = ["-c", f"DEM={dem}", "-c", f"LULC={cover}", "-c", "date=2023-07-14", "-g", "S2L2A_B01_B09,cloud_mask"]
    arguments += ["--samples", "2"]
    done = scene(bundle, tmp_path / "whole", *arguments)
    assert done.exit_code == 0, done.output
    out = tmp_path / "killed"
    start = ["scene", str(bundle), "--backend", "onnxruntime-cpu", "--steps", "2", "--out", str(out), "--quiet"]
    for at, when in (("2", "before"), ("3", "after"), ("4", "before"), ("3", "after"), ("2", "before")):
        child = [sys.executable, "-c", _KILLED, at, when, *start, *arguments]
        ended = subprocess.run(child, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not out.exists()
    done = scene(bundle, out, *arguments)
    assert done.exit_code == 0, done.output
    assert tree(out) == tree(tmp_path / "whole")
    assert not list(tmp_path.glob(".killed*"))


def test_another_request_does_not_go_on_from_this_one(bundle: Path, dem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["-c", f"DEM={dem}", "-g", "S2L2A_B01_B09"]
    start = ["scene", str(bundle), "--backend", "onnxruntime-cpu", "--steps", "2", "--out", str(out), "--quiet"]
    child = [sys.executable, "-c", _KILLED, "2", "before", *start, *arguments]
    assert subprocess.run(child, capture_output=True, check=False).returncode == -signal.SIGKILL
    refused = scene(bundle, out, *arguments, "--seed", "1")
    assert refused.exit_code == 2
    assert "seed" in refused.stderr.splitlines()[-1]
    done = scene(bundle, out, *arguments)
    assert done.exit_code == 0, done.output


def test_an_input_that_breaks_half_way_is_an_error_that_can_be_resumed(
    bundle: Path, dem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from copgen_edge.runtime.errors import RasterError
    from copgen_edge.runtime.scene import encode

    real, calls = encode.encode_windows, 0

    def breaks(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RasterError("DEM: dem.tif cannot be read")
        return real(*given, **named)

    from copgen_edge.runtime.scene import stages

    monkeypatch.setattr(stages, "encode_windows", breaks)
    arguments = ["-c", f"DEM={dem}", "-g", "S2L2A_B01_B09"]
    broken = scene(bundle, tmp_path / "out", *arguments)
    assert broken.exit_code == 2
    assert "cannot be read" in broken.stderr
    assert not (tmp_path / "out").exists()
    done = scene(bundle, tmp_path / "out", *arguments)
    assert done.exit_code == 0, done.output
    # The first row of windows was not encoded again.
    assert calls == 3


def test_a_bundle_swapped_in_between_is_refused(bundle: Path, dem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).symlink_to(path)
    arguments = ["-c", f"DEM={dem}", "-g", "S2L2A_B01_B09"]
    start = ["scene", str(copy), "--backend", "onnxruntime-cpu", "--steps", "2", "--out", str(out), "--quiet"]
    child = [sys.executable, "-c", _KILLED, "2", "before", *start, *arguments]
    assert subprocess.run(child, capture_output=True, check=False).returncode == -signal.SIGKILL
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(manifest + "\n")
    refused = scene(copy, out, *arguments)
    assert refused.exit_code == 2
    assert "bundle" in refused.stderr.splitlines()[-1]
