"""An evaluation end to end on a stand-in for the pipeline: what is written, what is refused, and when."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from copgen_edge.runtime.errors import BackendError, BundleError, RequestError
from copgen_edge.runtime.evaluation import plots
from copgen_edge.runtime.evaluation.folder import PAGE, REPORT, Baseline, Request, evaluate_folder
from copgen_edge.runtime.evaluation.runs import RUN_FILE, Run, draw_run
from copgen_edge.runtime.evaluation.truth import Truth
from PIL import Image

from .conftest import DATE, DEM, PLACE, SMALL, Drawer, MakeTruth

for library in ("scipy", "sklearn", "skimage", "matplotlib"):
    pytest.importorskip(library, reason=f"an evaluation needs {library}, of the extra evaluate")


def offset(conditions: int, seed: int, patch: int, sample: int) -> float:
    return 100 * seed + (3, -1)[sample]


@pytest.fixture
def truth(make_truth: MakeTruth) -> Truth:
    return make_truth([DEM, SMALL, PLACE, DATE], patches=3)


@pytest.fixture
def drawer(truth: Truth) -> Drawer:
    return Drawer(truth, offset)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(tmp_path / "out", ("date",), ("DEM", SMALL, "place"), samples=2, steps=6)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not drawn, which takes most of the time."""
    monkeypatch.setattr(plots, "png", lambda figure: b"a picture")


def evaluate(drawer: Drawer, truth: Truth, request: Request, **more: Any) -> dict[str, Any]:
    return evaluate_folder(drawer, truth, request, **more)  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_report_holds(drawer: Drawer, truth: Truth, request_: Request) -> None:
    found = evaluate(drawer, truth, request_)
    out = request_.out
    assert names(out) == {REPORT, PAGE, "histograms.png", "samples-0.png", "samples-1.png"}
    assert json.loads((out / REPORT).read_text()) == found
    assert found["given"] == ["date"] and found["outputs"] == [PLACE, DEM, SMALL]
    assert found["patches"] == ["patch 0", "patch 1", "patch 2"] and (found["samples"], found["seed"]) == (2, 0)
    assert found["run"]["steps"] == 6 and found["tools"]["copgen-edge"]
    assert found["truth"]["modalities"][DEM]["mae"] == pytest.approx(2)
    assert "baseline" not in found and "narrowing" not in found
    page = (out / PAGE).read_text()
    assert "Given date: 2 samples of each of 3 patches, seed 0." in page
    assert "model (random weights), fp32 on none, 6 steps of dpmpp-3s." in page
    assert "Against the truth" in page and "<td>DEM_DEM</td><td>MAE, m</td><td>2</td>" in page
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert inside == [(out / f"{name}.png").read_bytes() for name in ("histograms", "samples-0", "samples-1")]
    for png in inside:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.width > 200
    (call,) = drawer.calls
    assert list(call.conditions) == [DATE] and list(call.outputs) == [PLACE, DEM, SMALL]


def test_only_place_and_date_have_no_pictures(make_truth: MakeTruth, request_: Request) -> None:
    truth = make_truth([DEM, PLACE, DATE], patches=1)
    found = evaluate(Drawer(truth, offset), truth, replace(request_, given=(), outputs=("place", "date")))
    assert names(request_.out) == {REPORT, PAGE}
    assert list(found["truth"]["modalities"]) == [PLACE, DATE]
    page = (request_.out / PAGE).read_text()
    assert "<img" not in page and "Given nothing: 2 samples of each of 1 patches" in page


@pytest.mark.usefixtures("quick")
def test_codes_only(make_truth: MakeTruth, request_: Request) -> None:
    truth = make_truth(["S2L1C_cloud_mask"], patches=2)
    evaluate(Drawer(truth, offset), truth, replace(request_, given=(), outputs=("cloud_mask",)))
    assert names(request_.out) == {REPORT, PAGE, "samples-0.png", "samples-1.png"}


@pytest.mark.usefixtures("quick")
def test_an_output_without_truth_is_drawn_and_not_scored(truth: Truth, drawer: Drawer, request_: Request) -> None:
    less = Truth(truth.names, {key: values for key, values in truth.physical.items() if key != SMALL})
    found = evaluate(drawer, less, request_)
    assert found["truth"]["without_truth"] == [SMALL]
    assert SMALL in found["outputs"] and SMALL not in found["truth"]["modalities"]


@pytest.mark.usefixtures("quick")
def test_a_run_is_kept_and_serves_as_a_baseline(drawer: Drawer, truth: Truth, request_: Request) -> None:
    evaluate(drawer, truth, replace(request_, keep_run=True))
    kept = Run.load(request_.out / RUN_FILE)
    assert kept.patches == truth.names and kept.about["steps"] == 6
    said: list[str] = []
    again = replace(request_, out=request_.out.with_name("again"))
    found = evaluate(drawer, truth, again, baseline=Baseline("kept", run=kept), say=said.append)["baseline"]
    assert found["name"] == "kept" and found["run"] == dict(kept.about)
    assert found["paired"]["latents_relative_l2"] == 0
    # Another seed of this stand-in is 100 m higher.
    assert found["paired_floor"]["physical"][DEM]["DEM"]["mae"] == pytest.approx(100, rel=1e-5)
    assert said == ["the baseline is a file: the floor is what two seeds of this run differ by"]
    assert [call.seed for call in drawer.calls] == [0, 0, 1] and {call.steps for call in drawer.calls} == {6}
    assert {"drift.png", "drift-histograms.png"} <= names(again.out)
    page = (again.out / PAGE).read_text()
    assert "Against kept" in page and "Baseline kept: model (random weights), fp32 on none, 6 steps" in page


@pytest.mark.usefixtures("quick")
def test_a_baseline_that_is_drawn(drawer: Drawer, truth: Truth, request_: Request) -> None:
    """The baseline is 7 m higher than the run, and 1000 m higher again with another seed, in steps of its own."""
    other = Drawer(truth, lambda conditions, seed, patch, sample: 7 + 1000 * seed, name="other")
    stages: list[str] = []
    found = evaluate(
        drawer, truth, request_, baseline=Baseline("other", other, 40),  # type: ignore[arg-type]
        progress=lambda what, done, total: stages.append(what),
    )["baseline"]  # fmt: skip
    errors = found["paired"]["physical"][DEM]["DEM"]
    # 3 - 7 and -1 - 7.
    assert (errors["bias"], errors["mae"]) == pytest.approx((-6, 6), rel=1e-5)
    assert found["paired_floor"]["physical"][DEM]["DEM"]["bias"] == pytest.approx(1000, rel=1e-5)
    assert [call.seed for call in drawer.calls] == [0]
    assert [(call.seed, call.steps) for call in other.calls] == [(0, 40), (1, 40)]
    assert found["run"]["bundle"] == "other" and found["run"]["steps"] == 40
    assert stages == ["denoise", "baseline: denoise", "another seed: denoise"]


@pytest.mark.usefixtures("quick")
def test_the_floor_beside_a_file_is_of_what_draws_now(drawer: Drawer, truth: Truth, request_: Request) -> None:
    """The file is 7 m above the truth throughout; another seed of the run lies 100 m above the run, not the file."""
    asked: dict[str, Any] = {"samples": 2, "seed": 0}
    other = Drawer(truth, lambda conditions, seed, patch, sample: 7)
    kept = draw_run(other, truth, [DATE], [PLACE, DEM, SMALL], **asked)  # type: ignore[arg-type]
    found = evaluate(drawer, truth, request_, baseline=Baseline("kept", run=kept))["baseline"]
    ours, floor = (found[name]["physical"][DEM]["DEM"] for name in ("paired", "paired_floor"))
    assert (ours["bias"], floor["bias"], floor["rmse"]) == pytest.approx((-6, 100, 100), rel=1e-5)
    assert len(other.calls) == 1


@pytest.mark.usefixtures("quick")
def test_a_baseline_serves_where_there_is_no_truth(drawer: Drawer, truth: Truth, request_: Request) -> None:
    bare = Truth(truth.names, {DATE: truth.physical[DATE]})
    found = evaluate(drawer, bare, request_, baseline=Baseline("b", drawer))  # type: ignore[arg-type]
    assert "truth" not in found and found["baseline"]["paired"]["latents_relative_l2"] == 0
    assert names(request_.out) == {REPORT, PAGE, "drift.png", "drift-histograms.png"}


@pytest.mark.usefixtures("quick")
def test_the_narrowing(drawer: Drawer, truth: Truth, request_: Request) -> None:
    found = evaluate(drawer, truth, replace(request_, given=("date", "place"), outputs=("DEM",), narrowing="DEM"))
    assert names(request_.out) == {REPORT, PAGE, "narrowing.png"}
    narrowing = found["narrowing"]
    assert (narrowing["family"], narrowing["units"]) == ("DEM", "m")
    assert [entry["given"] for entry in narrowing["stages"]] == [[], ["date"], ["date", "place"]]
    assert found["run"]["steps"] == 6 and found["run"]["bundle"] == "model"
    page = (request_.out / PAGE).read_text()
    assert "Narrowing of DEM, in m" in page and "<td>date + place</td><td>4</td>" in page


@pytest.mark.parametrize(
    ("changes", "baseline", "message"),
    [
        ({"given": ("LULC",)}, None, "the truth has no LULC_LULC"),
        ({"given": ("FOO",)}, None, "unknown modality 'FOO'"),
        ({"outputs": ("FOO",)}, None, "unknown modality 'FOO'"),
        ({"outputs": ("LULC", "S1RTC")}, None, "has none of LULC_LULC, S1RTC_vh_vv; ask for what it has with --gen"),
        ({"narrowing": "DEM"}, {}, "give --baseline or --narrowing, not both"),
        ({"narrowing": "DEM", "keep_run": True}, None, "give --keep-run or --narrowing, not both"),
        ({"narrowing": "LULC"}, None, "cannot narrow 'LULC'"),
        ({}, {"seed": 9}, "the baseline has seed 9, this run 0"),
        ({}, {"samples": 1}, "the baseline has samples 1, this run 2"),
        ({}, {"outputs": [DEM]}, r"the baseline has outputs \(DEM_DEM\), this run \(3d_cart"),
        ({"given": ()}, {}, r"the baseline has given \(mean_timestamps\), this run \(\)"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_drawn(
    drawer: Drawer,
    truth: Truth,
    request_: Request,
    changes: dict[str, Any],
    baseline: dict[str, Any] | None,
    message: str,
) -> None:
    kept = None
    if baseline is not None:
        asked: dict[str, Any] = {"outputs": [PLACE, DEM, SMALL], "samples": 2, "seed": 0} | baseline
        outputs = asked.pop("outputs")
        kept = Baseline("kept", run=draw_run(Drawer(truth, offset), truth, [DATE], outputs, **asked))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=message) as caught:
        evaluate(drawer, truth, replace(request_, **changes), baseline=kept)
    assert "\n" not in str(caught.value)
    assert not drawer.calls and not request_.out.exists() and not list(request_.out.parent.iterdir())


def test_a_baseline_that_lacks_a_component_is_found_out_first(drawer: Drawer, truth: Truth, request_: Request) -> None:
    other = Drawer(truth, offset)

    def lacks(conditions: Any, outputs: Any) -> None:
        raise BundleError(f"no decoder of {outputs[-1]}")

    other.check_request = lacks  # type: ignore[method-assign]
    with pytest.raises(BundleError, match="no decoder of S2L2A_B01_B09"):
        evaluate(drawer, truth, request_, baseline=Baseline("b", other))  # type: ignore[arg-type]
    assert not drawer.calls


@pytest.mark.parametrize(
    "missing", ["matplotlib.figure", "sklearn.metrics", "skimage.metrics", "scipy.spatial.distance"]
)
def test_a_missing_library_is_missed_before_anything_is_drawn(
    drawer: Drawer, truth: Truth, request_: Request, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendError, match=r"pip install 'copgen-edge\[evaluate\]'"):
        evaluate(drawer, truth, request_)
    assert not drawer.calls


def test_a_folder_that_holds_something_is_left_alone(drawer: Drawer, truth: Truth, request_: Request) -> None:
    request_.out.mkdir()
    (request_.out / "mine").write_text("kept")
    with pytest.raises(RequestError, match="holds something already"):
        evaluate(drawer, truth, request_)
    assert names(request_.out) == {"mine"} and not drawer.calls


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("when", ["run", "baseline"])
def test_a_failure_leaves_nothing(drawer: Drawer, truth: Truth, request_: Request, when: str) -> None:
    failing: Callable[..., float] = lambda conditions, seed, patch, sample: 1 / 0  # noqa: E731
    broken = Drawer(truth, failing)
    with pytest.raises(ZeroDivisionError):
        if when == "run":
            evaluate(broken, truth, replace(request_, keep_run=True))
        else:
            evaluate(drawer, truth, replace(request_, keep_run=True), baseline=Baseline("b", broken))  # type: ignore[arg-type]
    assert not list(request_.out.parent.iterdir())


@pytest.mark.usefixtures("quick")
def test_room_for_a_kept_run_is_asked_for(
    make_truth: MakeTruth, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a run is no larger than what was asked of the disk."""
    truth = make_truth(["S1RTC_vh_vv", DATE], patches=1)
    drawer, request_ = Drawer(truth, offset), replace(request_, outputs=("S1RTC",))
    evaluate(drawer, truth, replace(request_, keep_run=True))
    size = (request_.out / RUN_FILE).stat().st_size
    usage = type("Usage", (), {"free": size + (32 << 20) - 1})
    monkeypatch.setattr("copgen_edge.runtime.folders.shutil.disk_usage", lambda path: usage)
    again = replace(request_, out=request_.out.with_name("again"), keep_run=True)
    with pytest.raises(RequestError, match="MB free and the result needs up to"):
        evaluate(drawer, truth, again)
    evaluate(drawer, truth, replace(again, keep_run=False))
