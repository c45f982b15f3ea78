"""The pictures: what their axes show, and that they are PNG files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.evaluation import plots
from copgen_edge.runtime.evaluation.narrowing import Stage
from copgen_edge.runtime.modalities import FAMILIES
from PIL import Image

from .conftest import DATE, DEM, PLACE, SMALL, MakeTruth

pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra evaluate")

CLOUDS, RADAR = "S2L1C_cloud_mask", "S1RTC_vh_vv"


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """A warning of matplotlib or NumPy would reach the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures, to look into, in place of their pictures, which take long to draw."""
    seen: list[Any] = []

    def keep(figure: Any) -> bytes:
        seen.append(figure)
        return b""

    monkeypatch.setattr(plots, "png", keep)
    return seen


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def size(png: bytes | None) -> tuple[int, int]:
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_a_histogram_for_each_band(make_truth: MakeTruth, figures: list[Any]) -> None:
    """A family that is not whole has histograms too; what has no bands, or is in one set only, has none."""
    truth = make_truth([SMALL, DEM, CLOUDS, PLACE], patches=2)
    drawn = {key: np.stack([v, v + 40], axis=1) for key, v in truth.physical.items()}
    plots.histograms(drawn | {RADAR: np.ones((2, 2, 2, 192, 192))}, truth.physical, ("ours", "theirs"))
    assert titles(figures[0]) == ["S2L2A B01", "S2L2A B09", "DEM DEM"]
    assert [axis.get_xlabel() for axis in figures[0].axes] == ["DN", "DN", "m"]
    legend = figures[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "theirs"]
    for axis in figures[0].axes:
        for patch in axis.patches:
            values, edges, _ = patch.get_data()
            assert (values * np.diff(edges)).sum() == pytest.approx(1)


def test_a_histogram_shows_where_values_are(make_truth: MakeTruth, figures: list[Any]) -> None:
    """Half of what is drawn is 0 m and half 100 m, with one in a thousand far out; the truth is 100 m."""
    drawn = np.zeros((1, 1, 1, 64, 64))
    drawn[..., 32:] = 100
    drawn.reshape(-1)[:4] = 1e6
    plots.histograms({DEM: drawn}, {DEM: np.full((1, 1, 64, 64), 100.0)}, ("drawn", "truth"))
    (found, edges, _), (true, _, _) = (patch.get_data() for patch in figures[0].axes[0].patches)
    assert (edges[0], edges[-1]) == (0, 100)
    share = found * np.diff(edges)
    assert share[[0, -1]] == pytest.approx([0.5, 0.5], abs=0.01) and share[1:-1].sum() == 0
    assert (true * np.diff(edges))[-1] == pytest.approx(1)


def test_histograms_of_radar_are_in_decibels(figures: list[Any]) -> None:
    plots.histograms({RADAR: np.full((1, 1, 2, 192, 192), 0.01)}, {RADAR: np.ones((1, 2, 192, 192))}, ("a", "b"))
    assert figures[0].axes[0].patches[0].get_data()[1][[0, -1]] == pytest.approx([-20, 0])


def test_a_histogram_of_one_value_is_a_picture() -> None:
    same = {DEM: np.full((1, 1, 64, 64), 7.0)}
    assert size(plots.histograms(same, same, ("a", "b"))) == (260, 190)


def test_no_histograms_without_bands(make_truth: MakeTruth) -> None:
    truth = make_truth([CLOUDS, PLACE, DATE, DEM], patches=1)
    drawn = {key: truth.physical[key][:, None] for key in (CLOUDS, PLACE, DATE)}
    assert plots.histograms(drawn, truth.physical, ("a", "b")) is None
    assert plots.histograms({DEM: truth.physical[DEM]}, {}, ("a", "b")) is None


def test_many_panels_wrap(make_truth: MakeTruth, figures: list[Any]) -> None:
    truth = make_truth(FAMILIES["S2L2A"], patches=1)
    plots.histograms(truth.physical, truth.physical, ("a", "b"))
    assert figures[0].get_size_inches().tolist() == pytest.approx([5 * 2.6, 3 * 1.9])
    assert len(titles(figures[0])) == 12
    assert [axis.axison for axis in figures[0].axes] == [True] * 12 + [False] * 3


def test_samples_of_one_patch(make_truth: MakeTruth, figures: list[Any]) -> None:
    truth = make_truth([DEM, CLOUDS, PLACE], patches=2)
    drawn = {key: np.stack([v] * 6, axis=1) for key, v in truth.physical.items()}
    drawn[SMALL] = np.full((2, 6, 2, 32, 32), 100.0) + np.arange(6).reshape(6, 1, 1, 1)
    plots.samples(drawn, truth.physical, 1)
    rows = np.array(figures[0].axes).reshape(3, 6)
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["DEM DEM", "S2L1C cloud_mask", "S2L2A B01_B09"]
    assert [axis.get_title() for axis in rows[0, 1:5]] == [f"sample {n}" for n in range(4)]
    assert [axis.get_title() for axis in rows[:, 0]] == ["truth", "truth", "no truth"]
    assert [len(axis.images) for axis in rows[:, 0]] == [1, 1, 0]
    for row in rows[:2]:
        truth_shown, first = (axis.images[0].get_array() for axis in row[:2])
        np.testing.assert_array_equal(truth_shown, first)
    assert rows[0, 5].get_title() == "std in m: 0..0.1" and rows[1, 5].get_title().startswith("agreement with mode")


def test_the_patch_that_is_asked_for_is_shown(figures: list[Any]) -> None:
    drawn = {CLOUDS: np.zeros((2, 1, 1, 192, 192), np.uint8)}
    drawn[CLOUDS][1] = 1
    for patch in (0, 1):
        plots.samples(drawn, {}, patch)
    shown = [figure.axes[1].images[0].get_array() for figure in figures]
    assert (shown[0] != shown[1]).any()
    assert not figures[0].axes[2].axison, "one sample has no spread"


def stage(given: tuple[str, ...], interval: list[float] | None = None, level: float = 0.0, bands: int = 1) -> Stage:
    figures = {
        "given": list(given), "intra_set": 9.0 + level, "intra_set_interval": interval, "spread": 3.0,
        "crps": 400 + level, "inside": 1.0, "inside_if_calibrated": 1 / 3,
    }  # fmt: skip
    return Stage(given, figures, np.random.default_rng(0).normal(level, 1, (4, 2, bands)))


def test_the_narrowing_by_stage(figures: list[Any]) -> None:
    stages = [stage((), [8, 12]), stage(("DEM",), [7, 11], 1), stage(("DEM", "date"), [6, 10], 2)]
    plots.narrowing(stages, np.zeros((4, 1)), "DEM", (DEM,))
    distance, crps, inside, band, *rest = figures[0].axes
    assert distance.lines[0].get_ydata().tolist() == [9, 10, 11]
    assert [tick.get_text() for tick in distance.get_xticklabels()] == ["nothing", "+ DEM", "+ date"]
    assert len(distance.collections) == 1
    for axis in (distance, crps, inside):
        low, high = axis.get_ylim()
        line = axis.lines[0].get_ydata()
        assert low <= 0 and min(line) >= low and max(line) < high, "nothing is cut off"
    assert distance.get_ylim()[1] > 12 and crps.get_ylim()[1] > 1.05 * 402, "markers are whole too"
    assert inside.lines[1].get_ydata()[0] == pytest.approx(1 / 3)
    assert band.get_title() == "DEM_DEM: drawn mean minus true (m)" and len(band.collections) == 3
    assert [axis.axison for axis in rest] == [False, False]


def test_the_telling_bands_of_the_narrowing(figures: list[Any]) -> None:
    plots.narrowing([stage((), bands=12)], np.zeros((4, 12)), "S2L2A", FAMILIES["S2L2A"])
    plots.narrowing([stage((), bands=2)], np.zeros((4, 2)), "S1RTC", FAMILIES["S1RTC"])
    names = [[title.split(":")[0] for title in titles(figure)[3:]] for figure in figures]
    assert names == [["S2L2A_B02", "S2L2A_B08", "S2L2A_B11"], ["S1RTC_vv", "S1RTC_vh"]]
    # The true mean is taken off band by band.
    far = np.zeros((4, 12))
    far[:, 4] = 500
    plots.narrowing([stage((), bands=12)], far, "S2L2A", FAMILIES["S2L2A"])
    assert figures[2].axes[3].get_ylim()[0] < -500 and figures[2].axes[4].get_ylim()[0] > -10


def test_a_narrowing_where_all_is_alike_is_a_picture() -> None:
    flat = Stage((), stage(()).figures | {"intra_set": 0.0, "crps": 0.0, "inside": 0.0}, np.zeros((1, 2, 1)))
    png = plots.narrowing([flat, Stage(("DEM",), flat.figures, flat.vectors)], np.zeros((1, 1)), "DEM", (DEM,))
    assert size(png) == (3 * 420, 2 * 320)


DRIFT = {
    "paired": {"latents_by_modality": {DEM: 0.1, SMALL: 0.0, PLACE: None}},
    "paired_floor": {"latents_by_modality": {DEM: 1.4, SMALL: 1.2, PLACE: 1.0}},
}


def test_drift_and_its_floor(figures: list[Any]) -> None:
    """Equal latents have no logarithm, and None stands for infinity."""
    plots.drift(DRIFT)
    (axis,) = figures[0].axes
    assert axis.get_xscale() == "log"
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [DEM, SMALL, PLACE]
    run, floor = ([bar.get_width() for bar in bars] for bars in axis.containers)
    assert run[:2] == [0.1, 1e-9] and np.isnan(run[2])
    assert floor == [1.4, 1.2, 1.0]


def test_drift_and_samples_are_pictures() -> None:
    width, height = size(plots.drift(DRIFT))
    assert width == 750 and height > 150
    assert size(plots.samples({CLOUDS: np.zeros((1, 2, 1, 192, 192), np.uint8)}, {}, 0)) == (4 * 170, 180)
