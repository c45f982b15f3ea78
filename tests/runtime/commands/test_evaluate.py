"""``evaluate`` on an exported bundle: reports, baselines of each kind, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from copgen_edge.runtime.commands import main
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation import plots
from copgen_edge.runtime.evaluation.runs import Run as KeptRun
from copgen_edge.runtime.raster.conditions import ReadOptions
from PIL import Image

from .conftest import Outcome, Run

for library in ("scipy", "sklearn", "skimage", "matplotlib"):
    pytest.importorskip(library, reason=f"an evaluation needs {library}, of the extra evaluate")

PLACE, DATE, DEM, SMALL = "3d_cartesian_lat_lon", "mean_timestamps", "DEM_DEM", "S2L2A_B01_B09"
CHEAP = f"{SMALL},DEM,place,date"
SIZE = ("--world", 3, "--samples", 2, "--steps", 2, "--threads", 1)

Evaluate = Callable[..., Outcome]


@pytest.fixture(scope="module")
def kept(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the cheap outputs given S2L1C at 60 m, its run kept; tests must not write in it."""
    out = tmp_path_factory.mktemp("kept") / "report"
    asked = ["evaluate", bundle, *SIZE, "--given", "S2L1C_B01_B09_B10", "-g", CHEAP, "--keep-run", "--out", out]
    result = CliRunner().invoke(main, [str(part) for part in asked])
    assert result.exit_code == 0, result.stderr
    (out / "said.txt").write_text(result.stderr)
    return out


@pytest.fixture
def evaluate(run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs ``evaluate`` as ``kept`` was, but for the drawing of its pictures, which takes long; arguments that come
    again later win."""
    monkeypatch.setattr(plots, "png", lambda figure: b"a picture")

    def call(*arguments: object, out: Path = tmp_path / "out") -> Outcome:
        return run("evaluate", bundle, *SIZE, "--given", "S2L1C_B01_B09_B10", "-g", CHEAP, "--out", out, *arguments)

    return call


@pytest.fixture
def refused(run: Run, bundle: Path, tmp_path: Path) -> Iterator[Evaluate]:
    """Runs ``evaluate`` with the arguments given alone, and expects one line, exit code 2 and nothing written."""

    def call(*arguments: object) -> Outcome:
        before = sorted(tmp_path.rglob("*"))
        outcome = run("evaluate", bundle, "--steps", 2, "--out", tmp_path / "out", *arguments)
        assert outcome.code == 2 and not outcome.out
        assert sum(line.startswith("Error: ") for line in outcome.err.splitlines()) == 1
        assert outcome.err.strip().splitlines()[-1].startswith("Error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return outcome

    return call


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_report(kept: Path) -> None:
    pictures = {"histograms.png", "samples-0.png", "samples-1.png"}
    assert {path.name for path in kept.iterdir()} == {"report.json", "report.html", "run.npz", "said.txt"} | pictures
    found = report(kept)
    assert found["outputs"] == [PLACE, DEM, SMALL, DATE] and found["given"] == ["S2L1C_B01_B09_B10"]
    assert len(set(found["patches"])) == 3 and (found["samples"], found["run"]["steps"]) == (2, 2)
    assert len(found["run"]["bundle_sha256"]) == 64 and found["run"]["engine"]["precision"] == "fp32"
    scores = found["truth"]["modalities"]
    assert list(scores) == found["outputs"]
    assert scores[DEM]["units"] == "m" and scores[SMALL]["bands"]["B09"]["mae"] > 0
    assert all("climatology" in entry for entry in scores.values())
    page = (kept / "report.html").read_text()
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(inside) == sorted((kept / name).read_bytes() for name in pictures)
    for png in inside:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 100
    said = (kept / "said.txt").read_text()
    assert "the truth: 3 held-out patches of the made-up world" in said and "Against the truth" in said
    rows = {words[0]: words for line in said.splitlines() if (words := line.split())}
    assert rows[DEM][1:3] == ["MAE,", "m"] and f"report: {kept / 'report.html'}" in said


def test_the_run_that_is_kept_is_of_its_conditions(kept: Path) -> None:
    """Patches share their noise, so that what differs between them comes from what was given."""
    run = KeptRun.load(kept / "run.npz")
    for key, shape in ((DEM, (3, 2, 1, 64, 64)), (SMALL, (3, 2, 2, 32, 32)), (PLACE, (3, 2, 2)), (DATE, (3, 2, 3))):
        assert run.physical[key].shape == shape
    for key in (DEM, SMALL):
        values = run.physical[key]
        assert not np.array_equal(values[0], values[1]) and not np.array_equal(values[:, 0], values[:, 1])
    assert run.given == ("S2L1C_B01_B09_B10",) and list(run.patches) == report(kept)["patches"]


def test_json_is_the_report_and_quiet_says_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    outcome = evaluate("--json", "--quiet", "--generate", "place,date", "--given", "")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.json == report(tmp_path / "out") and outcome.json["given"] == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.html"}


def test_other_conditions_give_another_report(evaluate: Evaluate, kept: Path, tmp_path: Path) -> None:
    """The same bundle and noise, but the date given in place of an image."""
    assert evaluate("--given", "date", "-g", f"{SMALL},DEM,place", "-q").code == 0
    ours, theirs = (report(folder)["truth"]["modalities"] for folder in (tmp_path / "out", kept))
    assert ours[DEM]["mae"] != theirs[DEM]["mae"] and ours[DEM]["climatology"] == theirs[DEM]["climatology"]


def test_a_kept_run_as_baseline(evaluate: Evaluate, kept: Path, tmp_path: Path) -> None:
    outcome = evaluate("--baseline", kept)
    assert outcome.code == 0, outcome.err
    found = report(tmp_path / "out")["baseline"]
    assert found["paired"]["latents_relative_l2"] <= 1e-6 < 0.5 < found["paired_floor"]["latents_relative_l2"]
    ours, floor = (found[name]["physical"][SMALL]["B01"]["mae"] for name in ("paired", "paired_floor"))
    assert ours < 0.1 < floor
    assert {"drift.png", "drift-histograms.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert f"Against {kept}" in outcome.err and "latents, relative L2" in outcome.err
    assert "the floor is what two seeds of this run differ by" in outcome.err


def test_a_bundle_as_baseline_in_steps_of_its_own(evaluate: Evaluate, bundle: Path, tmp_path: Path) -> None:
    outcome = evaluate("--baseline", bundle, "--baseline-steps", 4, "-g", f"{SMALL},place")
    assert outcome.code == 0, outcome.err
    found = report(tmp_path / "out")
    assert (found["run"]["steps"], found["baseline"]["run"]["steps"]) == (2, 4)
    assert found["baseline"]["name"] == f"{bundle} in fp32"
    assert found["baseline"]["paired"]["latents_relative_l2"] > 1e-3


def test_the_checkpoint_as_baseline(evaluate: Evaluate, checkpoint: Path, kept: Path, tmp_path: Path) -> None:
    """The engine and PyTorch draw the same from the same noise, and nothing like another seed."""
    outcome = evaluate("--baseline", checkpoint, "-q")
    assert outcome.code == 0, outcome.err
    found = report(tmp_path / "out")["baseline"]
    assert found["run"]["engine"]["backend"] == "pytorch" and found["name"] == f"{checkpoint} in PyTorch"
    assert 0 < found["paired"]["latents_relative_l2"] < 1e-4 < 0.5 < found["paired_floor"]["latents_relative_l2"]
    assert report(tmp_path / "out")["truth"] == report(kept)["truth"]


def test_a_checkpoint_without_its_config(
    evaluate: Evaluate, checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads cannot be read from the weights' shapes: they are the bundle's, which was made of this checkpoint."""
    heads = json.loads((bundle / "manifest.json").read_text())["model"]["heads"]
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy, ignore=shutil.ignore_patterns("config.json", "LULC*", "S1RTC*"))
    config = json.loads((checkpoint / "config.json").read_text())
    assert config.pop("num_heads") == heads
    (copy / "config.json").unlink(missing_ok=True)
    (copy / "config.json").write_text(json.dumps(config))
    outcome = evaluate("--baseline", copy, "-q", "-g", "place", "--given", "date")
    assert outcome.code == 0, outcome.err
    assert report(tmp_path / "out")["baseline"]["paired"]["latents_relative_l2"] < 1e-4


def test_narrowing(evaluate: Evaluate, tmp_path: Path) -> None:
    outcome = evaluate("--given", "place,S2L1C_B01_B09_B10", "--narrowing", "DEM")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.html", "narrowing.png"}
    found = report(tmp_path / "out")
    assert found["outputs"] == [DEM] and found["run"]["steps"] == 2
    assert [stage["given"] for stage in found["narrowing"]["stages"]] == [[], ["place"], ["place", "S2L1C_B01_B09_B10"]]
    assert "Narrowing of DEM, in m" in outcome.err and "place + S2L1C_B01_B09_B10" in outcome.err


def test_redraws(evaluate: Evaluate, tmp_path: Path) -> None:
    assert evaluate("--given", "DEM,place", "-g", SMALL, "--world", 1, "--redraws", 2).code == 0
    outcome = evaluate("-g", "place", "--world", 1, "--redraws", 2, out=tmp_path / "other")
    assert "no redraws: S2L1C_B01_B09_B10 leave no weather open" in outcome.err


def test_cells(run: Run, bundle: Path, data: Path, tmp_path: Path) -> None:
    mapping = "3:4,4:5,5:7,6:8,7:9,8:10,9:11"
    outcome = run(
        "evaluate", bundle, "--cells", data / "majortom_cells", "--lulc-map", mapping, "--given", SMALL,
        "-g", "DEM,place", "--samples", 2, "--steps", 2, "--threads", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = report(tmp_path / "out")
    assert found["patches"] == ["282D_485L_3_3", "38D_378R_2_3", "637U_59R_1_3"]
    assert list(found["truth"]["modalities"]) == [PLACE, DEM]


def test_options_of_the_cells(refused: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[ReadOptions] = []

    def read(folder: Path, options: ReadOptions) -> None:
        seen.append(options)
        raise RequestError("enough")

    monkeypatch.setattr("copgen_edge.runtime.commands.evaluate.read_cells", read)
    refused("--cells", tmp_path, "--s2-offset", "-1000", "--fill-nodata", "--lulc-map", "3:4")
    refused("--cells", tmp_path)
    assert seen == [ReadOptions(lulc_map={3: 4}, s2_offset=-1000, fill_nodata=True), ReadOptions()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", 3, "--cells", "x"), "give --world (and --redraws of it) or --cells, not both"),
        (("--redraws", 3, "--cells", "x"), "give --world (and --redraws of it) or --cells, not both"),
        (("--cells", "no/such"), "no/such holds no cells"),
        (("--world", 1, "--given", "FOO"), "unknown modality 'FOO'; families are DEM"),
        (("--world", 1, "-g", "FOO"), "unknown modality 'FOO'; families are DEM"),
        (("--world", 1, "-g", ""), "nothing to generate"),
        (("--world", 1, "--given", "DEM", "-g", "DEM"), "DEM_DEM is both given and asked for"),
        (("--world", 1, "--narrowing", "cloud_mask"), "cannot narrow 'cloud_mask'"),
        (("--world", 1, "--narrowing", "DEM"), "DEM is both given and asked for; leave it out of --given"),
        (("--world", 1, "--baseline-steps", 4), "--baseline-steps are those of a baseline"),
        (("--world", 1, "--baseline", "no/such"), "--baseline no/such does not exist; give a bundle"),
    ],
)
def test_what_is_refused(refused: Evaluate, arguments: tuple[object, ...], message: str) -> None:
    assert message in refused(*arguments).err


def test_baselines_that_are_refused(
    refused: Evaluate, bundle: Path, kept: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a narrowing, of another request, of a report that kept no run, of weights of another scale, of no model."""
    same = ("--world", 3, "--samples", 2, "--given", "S2L1C_B01_B09_B10", "-g", CHEAP)
    assert "give --baseline or --narrowing" in refused("--world", 1, "--narrowing", "S2L2A", "--baseline", bundle).err
    assert "the baseline has seed 0, this run 1" in refused(*same, "--seed", 1, "--baseline", kept).err
    more = refused(*same, "--samples", 3, "--baseline", kept / "run.npz")
    assert "the baseline has samples 2, this run 3" in more.err
    assert "the baseline has patches (world " in refused(*same, "--world", 2, "--baseline", kept).err
    other = tmp_path_factory.mktemp("other")
    shutil.copy(kept / "report.json", other)
    assert f"{other} is a report without run.npz; make it again with" in refused(*same, "--baseline", other).err
    assert "report.json is no run of" in refused(*same, "--baseline", other / "report.json").err
    (other / "report.json").unlink()
    assert "no COP-GEN weights below it" in refused(*same, "--baseline", other).err
    scaled = other / "scaled"
    scaled.mkdir()
    for path in checkpoint.iterdir():
        if path.is_dir():
            (scaled / path.name).symlink_to(path, target_is_directory=True)
    config = json.loads((checkpoint / "config.json").read_text())
    (scaled / "config.json").write_text(json.dumps(config | {"scale_factors": {"DEM_DEM": 9.5}}))
    assert "scales the latent of DEM_DEM by 9.5" in refused(*same, "--baseline", scaled).err


def test_a_report_is_not_overwritten(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    outcome = evaluate()
    assert outcome.code == 2 and "holds something already" in outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_run_that_fails_leaves_nothing(evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    outcome = evaluate("--keep-run", "-g", SMALL)
    assert outcome.code == 1 and "No space left on device" in outcome.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
