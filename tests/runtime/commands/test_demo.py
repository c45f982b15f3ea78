"""``demo`` on a stand-in for the shipped weights: what is exported, reused, kept, written and said."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from copgen_edge.copgen_ref import small_model
from copgen_edge.export import exporter
from copgen_edge.runtime.bundle import MANIFEST, Bundle
from copgen_edge.runtime.commands import demo
from copgen_edge.runtime.components import COMPONENTS
from copgen_edge.runtime.errors import CheckpointError

from .conftest import Outcome, Run

UNUSED = {
    "encoder_S2L2A_B01_B09",
    "encoder_S2L2A_B02_B03_B04_B08",
    "encoder_S2L2A_B05_B06_B07_B11_B12_B8A",
    "decoder_DEM_DEM",
    "decoder_LULC_LULC",
}


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, bundle: Path) -> list[dict[str, Any]]:
    """Ships ``checkpoint``, makes an export a copy of its ``bundle``, and lists the exports; runs are two steps."""
    made: list[dict[str, Any]] = []

    def export(source: Path, out: Path, *, components: tuple[str, ...], workers: int, progress: object) -> None:
        made.append({"source": source, "out": out, "components": components})
        shutil.copytree(bundle, out)

    monkeypatch.setattr(small_model, "small_checkpoint", lambda: checkpoint)
    monkeypatch.setattr(exporter, "export_bundle", export)
    monkeypatch.setattr(demo, "STEPS", 2)
    monkeypatch.setattr(demo, "SAMPLES", 2)
    return made


def spread(folder: Path) -> float:
    """Standard deviation of B04 over the samples themselves, in DN, mean over the window."""
    samples = []
    for path in sorted(folder.glob("S2L2A_B02_B03_B04_B08.sample-*.tif")):
        with rasterio.open(path) as dataset:
            samples.append(dataset.read(1 + dataset.descriptions.index("B04")).astype(float))
    return float(np.std(samples, axis=0).mean())


def test_a_first_and_a_second_demo(
    run: Run, exports: list[dict[str, Any]], checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    first = run("demo", "--out", out)
    assert first.code == 0, first.err
    (export,) = exports
    assert export["source"] == checkpoint and export["out"] == out / "bundle"
    assert set(export["components"]) == set(COMPONENTS) - UNUSED
    assert "16 of 21 components" in first.err and f"export --checkpoint {checkpoint} --out" in first.err
    before = {path: path.stat().st_mtime_ns for path in (out / "bundle").rglob("*")}

    again = run("demo", "--out", out)
    assert again.code == 0, again.err
    assert len(exports) == 1 and "used again" in again.err
    assert {path: path.stat().st_mtime_ns for path in (out / "bundle").rglob("*")} == before
    assert sorted(path.name for path in out.iterdir()) == ["bundle", "run-1", "run-2", "scene"]
    for number, outcome in ((1, first), (2, again)):
        few, more = out / f"run-{number}" / "few-conditions", out / f"run-{number}" / "more-conditions"
        check_output(outcome, few, more)
        given = {"DEM_DEM", "LULC_LULC"}
        generated = {path.name.partition(".")[0] for path in few.glob("*.tif")}
        assert len(generated) == 8 and not generated & given
        assert {path.name.partition(".")[0] for path in more.glob("*.tif")} == {k for k in generated if "S2L2A" in k}
    one, two = (out / f"run-{n}/more-conditions/S2L2A_B01_B09.sample-0.tif" for n in (1, 2))
    assert one.read_bytes() != two.read_bytes()


def check_output(outcome: Outcome, few: Path, more: Path) -> None:
    *pictures, sentence = outcome.out.strip().splitlines()
    assert pictures == [f"picture: {folder / 'quicklook.png'}" for folder in (few, more)]
    assert all((folder / "quicklook.png").stat().st_size > 10_000 for folder in (few, more))
    found = [float(number) for number in re.findall(r"by ([0-9.]+) DN", sentence)]
    assert found == pytest.approx([spread(few), spread(more)], abs=0.51)
    assert "DEM, LULC, place, date" in sentence and "S1RTC, S2L1C, cloud_mask as well" in sentence


def _other_weights(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    digest = Bundle.open(bundle).manifest.source["files"][3]["sha256"]
    (bundle / MANIFEST).write_text(text.replace(digest, "0" * 64))


def _an_older_layout(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"sha256":', '"digest":'))


def _damaged(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("{")


def _no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_weights, "other weights"),
        (_an_older_layout, "sha256"),
        (_damaged, "cannot be used"),
        (_no_manifest, "no bundle"),
    ],
)
def test_a_bundle_that_cannot_serve_is_left_alone(
    exports: list[dict[str, Any]],
    bundle: Path,
    checkpoint: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    reason: str,
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    change(tmp_path / "bundle")
    kept = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "bundle").rglob("*"))
    said: list[str] = []
    for expected in (1, 1):
        # The second call finds what the first exported beside it.
        assert demo._bundle(tmp_path, checkpoint, True, said.append) == tmp_path / "bundle-2"
        assert len(exports) == expected
    assert any("is left as it is" in line and reason in line for line in said), said
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "bundle").rglob("*")) == kept


def test_a_package_without_the_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise CheckpointError("built without its small model")

    monkeypatch.setattr(small_model, "small_checkpoint", absent)
    outcome = run("demo", "--out", tmp_path / "demo")
    assert outcome.code == 2 and outcome.err.strip() == "Error: built without its small model"


def test_a_demo_below_a_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = run("demo", "--quiet", "--out", tmp_path / "file" / "demo")
    assert outcome.code == 2 and "choose another folder" in outcome.err


@pytest.mark.slow
def test_more_conditions_narrow_the_spread_of_the_shipped_model(run: Run, tmp_path: Path) -> None:
    try:
        small_model.small_checkpoint()
    except CheckpointError as error:
        pytest.skip(str(error))
    outcome = run("demo", "--out", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    manifest = Bundle.open(tmp_path / "demo" / "bundle").manifest
    assert set(manifest.components) == set(COMPONENTS) - UNUSED and manifest.model["weights"] == "small-world"
    few, more = (tmp_path / "demo/run-1" / name for name in ("few-conditions", "more-conditions"))
    check_output(outcome, few, more)
    assert spread(more) < 0.5 * spread(few)
