"""Tables and the page: what a cell says, what is escaped, and that no figure that is missing breaks a row."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.evaluation import report
from copgen_edge.runtime.evaluation.comparison import compare_runs
from copgen_edge.runtime.evaluation.scores import score

from .conftest import DATE, DEM, PLACE, SMALL, MakeRun, MakeTruth

CLOUDS = "S2L1C_cloud_mask"


class Page(HTMLParser):
    """The texts of a page by tag, and the tags that stay open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: dict[str, list[dict[str, str | None]]] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.setdefault(tag, []).append(dict(attrs))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "-"), (3, "3"), ("text", "text"), (0.0, "0"), (0.123456, "0.1235"), (-12.3456, "-12.35"),
        (1e-9, "1e-09"), (999.96, "1000"), (1000.4, "1000"), (15269.4, "15269"), (-123456.7, "-123457"),
        ([0.25, 1234.5], "0.25 to 1234"), ((None, None), "- to -"),
    ],
)  # fmt: skip
def test_a_figure(value: Any, words: str) -> None:
    assert report.figure(value) == words


def test_a_page_is_whole_and_escaped() -> None:
    png = bytes(range(256))
    sections = [
        ("A < B", report.table(("x & y", "n"), [("<b>", "1"), ("-", "2")])),
        ("P", report.picture(png, 'a "b"')),
    ]
    page = report.html("<title>", ["one & two"], sections)
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.texts["title"] == parsed.texts["h1"] == ["<title>"]
    assert parsed.texts["p"] == ["one & two"] and parsed.texts["h2"] == ["A < B", "P"]
    assert parsed.texts["th"] == ["x & y", "n"] and parsed.texts["td"] == ["<b>", "1", "-", "2"]
    (image,) = parsed.attributes["img"]
    assert image["alt"] == 'a "b"'
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == png
    assert not re.search(r"https?://", page), "a report fetches nothing"


def test_scores_as_rows(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM, SMALL, CLOUDS, PLACE, DATE], patches=6)
    drawn = {key: np.stack([v, v], axis=1) for key, v in truth.physical.items()}
    drawn[DEM] = np.stack([truth.physical[DEM] + 3, truth.physical[DEM] - 1], axis=1)
    scores = score(make_run(drawn), truth)
    rows = {row[0]: dict(zip(report.SCORE_COLUMNS, row, strict=True)) for row in report.score_rows(scores)}
    assert list(rows) == [DEM, SMALL, CLOUDS, PLACE, DATE]
    dem = rows[DEM]
    assert (dem["measure"], dem["mean over samples"], dem["95 %"]) == ("MAE, m", "2", "2 to 2")
    assert (dem["best sample"], dem["spread/skill"]) == ("1", "3.464")
    assert re.fullmatch(r"[\d.]+, CRPS [\d.]+", dem["climatology"])
    # A perfect run has no skill to divide by.
    assert (rows[SMALL]["mean over samples"], rows[SMALL]["spread/skill"]) == ("0", "-")
    assert (rows[CLOUDS]["measure"], rows[CLOUDS]["best sample"], rows[CLOUDS]["climatology"]) == ("top-1", "1", "1")
    assert (rows[PLACE]["measure"], rows[PLACE]["CRPS"]) == ("km", "-") and float(rows[PLACE]["climatology"]) > 1000
    assert (rows[DATE]["measure"], rows[DATE]["best sample"]) == ("days", "0")
    (spectra,) = report.spectra_rows(scores)
    named = dict(zip(report.SPECTRA_COLUMNS, spectra, strict=True))
    assert (named["family"], named["recall"]) == ("DEM", "1") and named["sets"].startswith("6 real and 12 drawn")


def test_scores_of_one_patch_and_one_sample(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM, CLOUDS, PLACE, DATE], patches=1)
    scores = score(make_run({key: v[:, None] for key, v in truth.physical.items()}), truth)
    for row in report.score_rows(scores):
        named = dict(zip(report.SCORE_COLUMNS, row, strict=True))
        assert (named["95 %"], named["spread/skill"], named["climatology"]) == ("-", "-", "-")
    assert report.spectra_rows(scores) == []


def test_a_benchmark_that_lacks_figures() -> None:
    names = ("recall", "precision", "nn_accuracy", "mean_range_coverage", "mmd2", "intra_real", "intra_generated")
    row = report.spectra_rows({"spectra": {"DEM": {"sets": "s", **dict.fromkeys(names)}}})
    assert row == [("DEM", "s", *"-" * 7)]


def test_drift_as_rows(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM, CLOUDS, PLACE, DATE], patches=6)
    base = make_run({key: np.stack([v, v], axis=1) for key, v in truth.physical.items()})
    moved = make_run({**base.physical, DEM: base.physical[DEM] + 12})
    found = compare_runs(moved, base, (base, base))
    rows = {row[0]: row[1:] for row in report.drift_rows(found)}
    assert all(len(row) == len(report.DRIFT_COLUMNS) for row in report.drift_rows(found))
    assert rows["latents, relative L2"] == ("0", "-", "0", "-")
    assert rows["DEM_DEM: MAE, m"] == ("12", "-", "0", "-")
    assert rows["S2L1C_cloud_mask: share of equal classes"] == ("1", "-", "1", "-")
    assert rows["3d_cartesian_lat_lon: mean, km"] == rows["mean_timestamps: mean, days"] == ("0", "-", "0", "-")
    assert rows["DEM: Wasserstein, mean of bands, m"][0] == "12"
    assert rows["DEM: recall"][0] == "1" and " to " in rows["DEM: recall"][1]
    assert rows["cloud_mask: total variation of classes"] == ("0", "-", "0", "-")


def test_drift_that_lacks_figures() -> None:
    """One vector a set has no range coverage, and a floor may lack what the run has."""
    none = {"latents_relative_l2": None, "physical": {}}
    entry = {"bands": ["DEM_DEM"], "wasserstein": [1.0], "wasserstein_mean": 1.0, "range_coverage": None}
    found = {
        "paired": none, "paired_floor": none,
        "distribution": {"DEM": entry}, "distribution_floor": {"DEM": entry | {"wasserstein_mean": None}},
    }  # fmt: skip
    assert report.drift_rows(found) == [
        ("latents, relative L2", "-", "-", "-", "-"),
        ("DEM: Wasserstein, mean of bands, m", "1", "-", "-", "-"),
    ]


def test_the_narrowing_as_rows() -> None:
    figures = {"intra_set": 12.0, "intra_set_interval": None, "spread": 3.0, "crps": 1.5, "inside": 0.25}
    rows = report.narrowing_rows([figures | {"given": []}, figures | {"given": ["DEM", "date"]}])
    assert rows == [("nothing", "12", "-", "3", "1.5", "0.25"), ("DEM + date", "12", "-", "3", "1.5", "0.25")]
    assert len(rows[0]) == len(report.NARROWING_COLUMNS)
