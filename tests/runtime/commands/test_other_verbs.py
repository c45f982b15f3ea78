"""``verify``, ``info``, ``doctor``, ``bench``, ``weights``: exit codes, tables on stderr, JSON on stdout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.backends import create_backend, onnxruntime
from copgen_edge.runtime.commands import bench
from copgen_edge.runtime.components import COMPONENTS
from copgen_edge.runtime.peaks import Peak

from .conftest import Run


def test_verify_a_whole_bundle(run: Run, bundle: Path) -> None:
    outcome = run("verify", bundle, "--json")
    assert outcome.code == 0, outcome.err
    checks = outcome.json["checks"]
    assert [check["component"] for check in checks] == [*COMPONENTS, "run"]
    assert all(check["passed"] and check["relative_l2"] <= check["tolerance"] <= 5e-5 for check in checks)
    assert all({"max_abs", "relative_l2", "cosine", "p99_9"} <= set(check) for check in checks)
    assert "all 22 checks are within their tolerances" in outcome.err
    assert "encoder_DEM_DEM" in outcome.err


@pytest.fixture
def part(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the network and one autoencoder: a reference is slow."""
    copy = tmp_path / "part"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    kept = ("encoder_DEM_DEM", "dit_step", "decoder_DEM_DEM")
    manifest["components"] = {name: manifest["components"][name] for name in kept}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_verify_against_the_checkpoint(run: Run, part: Path, checkpoint: Path) -> None:
    outcome = run("verify", part, "--checkpoint", checkpoint, "--json")
    assert outcome.code == 0, outcome.err
    checks = outcome.json["checks"]
    names = ["encoder_DEM_DEM", "dit_step", "decoder_DEM_DEM"]
    assert [(check["component"], check["rows"]) for check in checks] == [
        *((name, rows) for name in names for rows in (1, 3)),
        ("run", 1),
    ]
    assert {check["reference"] for check in checks} == {"live"}
    assert outcome.json["seed"] != run("verify", part, "--checkpoint", checkpoint, "--json").json["seed"]


def test_verify_against_another_checkpoint_fails(run: Run, part: Path, tmp_path: Path) -> None:
    assert run("weights", "random", "--out", tmp_path / "other", "--seed", 5).code == 0
    outcome = run("verify", part, "--checkpoint", tmp_path / "other")
    assert outcome.code == 1
    assert "7 of 7 checks are over their tolerance" in outcome.err
    assert outcome.err.strip().splitlines()[-1].count("dit_step fp32") == 1
    assert "dit_step fp32" in outcome.err and "FAILED" in outcome.err


def test_verify_sees_a_scale_factor_that_was_changed(run: Run, part: Path, checkpoint: Path) -> None:
    manifest = json.loads((part / "manifest.json").read_text())
    manifest["modalities"][1]["scale_factor"] = 99.0
    (part / "manifest.json").write_text(json.dumps(manifest))
    outcome = run("verify", part, "--checkpoint", checkpoint)
    assert outcome.code == 1 and "scales the latent of DEM_DEM by 99.0" in outcome.err


@pytest.mark.parametrize("victim", ["onnx/decoder_DEM_DEM.fp32.onnx", "reference/run.npz", "reference/dit_step.npz"])
def test_verify_a_tampered_file(run: Run, bundle: Path, tmp_path: Path, victim: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    content = bytearray((copy / victim).read_bytes())
    content[-5] ^= 1
    (copy / victim).write_bytes(content)
    outcome = run("verify", copy)
    assert outcome.code == 2 and Path(victim).name in outcome.err and "SHA-256" in outcome.err


def test_no_bundle(run: Run, tmp_path: Path) -> None:
    for verb in ("verify", "info", "bench"):
        outcome = run(verb, tmp_path)
        assert outcome.code == 2 and "is no bundle" in outcome.err


def test_info(run: Run, bundle: Path) -> None:
    outcome = run("info", bundle, "--json")
    assert outcome.code == 0
    assert outcome.json["components"] == list(COMPONENTS) and outcome.json["missing"] == []
    assert len(outcome.json["modalities"]) == 12 and outcome.json["precisions"] == ["fp32"]
    assert outcome.json["model"]["heads"] == 4
    text = run("info", bundle)
    assert "width 64, depth 4, 4 heads" in text.out and "S2L1C_cloud_mask" in text.err


def test_doctor_with_and_without_an_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run("doctor", "--json")
    assert outcome.code == 0 and outcome.json["can_generate"] and outcome.json["can_export"]

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(onnxruntime, "import_module", absent)
    onnxruntime.cuda_obstacle.cache_clear()
    without = run("doctor")
    onnxruntime.cuda_obstacle.cache_clear()
    assert without.code == 1 and "copgen-edge[cpu]" in without.out


def test_bench_components_and_a_run(run: Run, bundle: Path, checkpoint: Path) -> None:
    outcome = run(
        "bench", bundle, "--components", "dit_step,decoder_DEM_DEM", "--batch", "1,2", "--repeat", 2, "--steps", 2,
        "--runs", 2,
        "--compare", "pytorch", "--checkpoint", checkpoint, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = outcome.json["components"]
    engines = ("onnxruntime-cpu", "pytorch", "pytorch-bf16-autocast")
    expected = [(c, e, b) for c in ("dit_step", "decoder_DEM_DEM") for b in (1, 2) for e in engines]
    assert [(row["component"], row["engine"], row["batch"]) for row in rows] == expected
    for row in rows:
        assert 0 < row["min_seconds"] <= row["median_seconds"] <= row["max_seconds"] and row["repeats"] == 2
        assert row["calls_per_second"] == pytest.approx(1 / row["median_seconds"])
        assert row["tflops_per_second"] == pytest.approx(row["flops"] / row["median_seconds"] / 1e12)
        # Nothing is claimed of a CPU.
        assert row["peak_ratio"] is None and row["roofline_seconds"] is None
    flops = {(row["component"], row["batch"]): row["flops"] for row in rows}
    assert flops["dit_step", 2] == 2 * flops["dit_step", 1] > 0
    assert flops["decoder_DEM_DEM", 2] == 2 * flops["decoder_DEM_DEM", 1] > 0
    assert "TFLOP/s" in outcome.err and "of peak" not in outcome.err
    assert rows[0]["load_seconds"] > 0
    whole = outcome.json["run"]
    assert whole["steps"] == 2 and whole["network_calls_per_second"] == pytest.approx(2 / whole["median_seconds"])
    assert 0 < whole["min_seconds"] <= whole["median_seconds"] <= whole["max_seconds"] and whole["repeats"] == 2
    assert len(whole["outputs"]) == 10 and whole["conditions"] == ["DEM_DEM", "LULC_LULC"]
    assert "dit_step" in outcome.err and "network calls a second" in outcome.err


def test_bench_where_the_peak_is_known(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PEAKS", {"CPU": Peak({"fp32": 1e13}, 1e11)})
    outcome = run("bench", bundle, "--components", "decoder_DEM_DEM", "--repeat", 1, "--runs", 0, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["components"]
    assert row["peak_ratio"] == pytest.approx(row["tflops_per_second"] / 10)
    assert 0 < row["roofline_seconds"] < row["median_seconds"]
    assert "of peak" in outcome.err and "bound s" in outcome.err


@pytest.mark.parametrize("arguments", [(), ("--no-cuda-graph",)])
def test_bench_takes_cuda_graphs_unless_told(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asked: list[bool] = []

    def note(*given: Any, cuda_graph: bool, **options: Any) -> Any:
        asked.append(cuda_graph)
        return create_backend(*given, cuda_graph=cuda_graph, **options)

    monkeypatch.setattr(bench, "create_backend", note)
    outcome = run("bench", bundle, "--components", "decoder_DEM_DEM", "--repeat", 1, "--runs", 0, *arguments)
    assert outcome.code == 0, outcome.err
    assert asked == [not arguments]


def test_verify_has_no_such_option(run: Run, bundle: Path) -> None:
    assert run("verify", bundle, "--no-cuda-graph").code == 2


def test_bench_of_a_bundle_that_tells_no_cost(run: Run, part: Path) -> None:
    manifest = json.loads((part / "manifest.json").read_text())
    for component in manifest["components"].values():
        for variant in component["precisions"].values():
            del variant["cost"]
    (part / "manifest.json").write_text(json.dumps(manifest))
    outcome = run("bench", part, "--components", "decoder_DEM_DEM", "--repeat", 1, "--runs", 0, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["components"]
    assert row["median_seconds"] > 0 and row["flops"] is None and row["tflops_per_second"] is None
    assert "median s" in outcome.err and "FLOP" not in outcome.err


def test_bench_of_a_size_without_weights(run: Run) -> None:
    arguments = ("--variant", "small", "--random", "--components", "decoder_DEM_DEM", "--repeat", 1)
    outcome = run("bench", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["weights"] == "random" and outcome.json["bundle"] is None
    (row,) = outcome.json["components"]
    assert row["component"] == "decoder_DEM_DEM" and row["median_seconds"] > 0 and row["flops"] > 0
    # Without the network there is no run to time.
    assert outcome.json["run"] is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give either a BUNDLE"),
        (("--variant", "small"), "give either a BUNDLE"),
        (("{bundle}", "--random"), "give either a BUNDLE"),
        (("{bundle}", "--batch", "0"), "batch sizes"),
        (("{bundle}", "--batch", "two"), "batch sizes"),
        (("{bundle}", "--batch", "99999999999"), "batch sizes"),
        (("{bundle}", "--compare", "pytorch"), "give --checkpoint"),
        (("{bundle}", "--components", "decoder_moon"), "decoder_moon"),
    ],
)
def test_bench_refusals(run: Run, bundle: Path, arguments: tuple[str, ...], expected: str) -> None:
    outcome = run("bench", *(argument.format(bundle=bundle) for argument in arguments))
    assert outcome.code == 2 and expected in outcome.err


def test_random_weights_are_called_random(run: Run, tmp_path: Path) -> None:
    from copgen_edge.copgen_ref.files import find_checkpoint

    assert run("weights", "random", "--out", tmp_path / "weights").code == 0
    assert find_checkpoint(tmp_path / "weights").weights == "random"
    again = run("weights", "random", "--out", tmp_path / "weights")
    assert again.code == 2 and "holds something already" in again.err


def test_the_small_weights_are_copied(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from copgen_edge.copgen_ref import small_model
    from copgen_edge.copgen_ref.files import find_checkpoint

    monkeypatch.setattr(small_model, "small_checkpoint", lambda: checkpoint)
    outcome = run("weights", "small", "--out", tmp_path / "weights")
    assert outcome.code == 0 and f"export --checkpoint {tmp_path / 'weights'}" in outcome.err
    assert find_checkpoint(tmp_path / "weights").missing == ()
    again = run("weights", "small", "--out", tmp_path / "weights")
    assert again.code == 2 and "holds something already" in again.err


@pytest.mark.parametrize(("kind", "title"), [("small-world", "made-up world"), ("random", "random weights")])
def test_weights_that_are_no_real_ones_are_called_so(
    run: Run, part: Path, tmp_path: Path, kind: str, title: str
) -> None:
    manifest = json.loads((part / "manifest.json").read_text())
    manifest["model"]["weights"] = kind
    (part / "manifest.json").write_text(json.dumps(manifest))
    first, warning = run("info", part).out.splitlines()[:2]
    assert first.startswith("COP-GEN custom") and title in first
    outcome = run(
        "generate",
        part,
        "-g",
        "date",
        "-c",
        "place=1,2",
        "--center",
        "1,2",
        "--steps",
        1,
        "--json",
        "--out",
        tmp_path / "out",
    )
    assert outcome.code == 0, outcome.err
    assert warning in outcome.err.splitlines() and outcome.json["notes"][0] == warning
    assert outcome.json["model"]["weights"] == kind


def test_fetching_without_a_network(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = run("weights", "fetch", "--out", tmp_path / "weights")
    assert outcome.code == 2
    said = outcome.err.strip().splitlines()[-1]
    assert "hf download mespinosami/copgen-base" in said and "hf download mespinosami/copgen-vaes" in said


def test_a_missing_package_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from copgen_edge.runtime.commands import common

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(common, "import_module", absent)
    outcome = run("export", "--checkpoint", tmp_path, "--out", tmp_path / "bundle")
    assert outcome.code == 2 and "torch" in outcome.err and "copgen-edge[export]" in outcome.err


def test_help_and_version(run: Run) -> None:
    assert run("--version").out.startswith("copgen-edge, version 0.")
    listed = run("--help").out
    for verb in ("demo", "export", "verify", "generate", "bench", "info", "doctor", "weights"):
        assert verb in listed
        shown = run(verb, "--help")
        assert shown.code == 0 and "Usage" in shown.out
    unknown = run("fly")
    assert unknown.code == 2 and "fly" in unknown.err


def test_the_tolerance_is_a_contract(bundle: Path) -> None:
    from copgen_edge.runtime.bundle import Bundle

    components = Bundle.open(bundle).manifest.components.values()
    assert {c.precisions["fp32"].tolerance for c in components} == {5e-5}
    assert all(np.isfinite(c.precisions["fp32"].parity["relative_l2"]) for c in components)


def test_bench_beside_pytorch_takes_the_threads_it_is_given(
    run: Run, copy_part: Callable[..., Path], checkpoint: Path
) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        arguments = ("--checkpoint", checkpoint, "--compare", "pytorch", "--threads", 1, "--repeat", 1, "--runs", 0)
        measured = run("bench", copy_part("decoder_S2L2A_B01_B09"), *arguments, "--json")
        assert measured.code == 0, measured.err
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    engines = [row["engine"] for row in measured.json["components"]]
    assert engines == ["onnxruntime-cpu", "pytorch", "pytorch-bf16-autocast"]


def test_verify_shows_the_drift_along_a_run(run: Run, copy_part: Callable[..., Path]) -> None:
    root = copy_part("dit_step")
    verified = run("verify", root, "--backend", "onnxruntime-cpu", "--drift", 3, "--json")
    assert verified.code == 0, verified.err
    (drifts,) = verified.json["drift"].values()
    assert [one["call"] for one in drifts] == [1, 2, 3]
    # The same engine on both sides.
    assert all(one["relative_l2"] == 0 for one in drifts)
    assert "latents of onnxruntime-cpu in fp32 against those of onnxruntime-cpu in fp32" in verified.err
