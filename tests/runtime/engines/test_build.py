"""Building engines with TensorRT for RTX, which needs no GPU for it: what is built, found, rebuilt, and survives."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from copgen_edge.runtime.bundle import Bundle, FileRecord, write_manifest
from copgen_edge.runtime.components import COMPONENTS
from copgen_edge.runtime.engines import build as building
from copgen_edge.runtime.engines.build import build_engines
from copgen_edge.runtime.engines.cache import entries
from copgen_edge.runtime.engines.flavours import Flavour
from copgen_edge.runtime.engines.options import BuildOptions
from copgen_edge.runtime.engines.record import UPDATE
from copgen_edge.runtime.errors import BackendError, BundleError, EngineError, RequestError

from ...conftest import HALF as NAMES
from ..conftest import Outcome
from .conftest import OPTIONS

pytestmark = pytest.mark.tensorrt


def test_every_attention_of_the_step_is_fused(engines: Bundle) -> None:
    records = {entry.record.component: entry.record for entry in entries(engines) if entry.record}
    blocks = engines.manifest.model["depth"] + 1
    assert records["dit_step"].attention == records["dit_step"].blocks == blocks
    for name in NAMES:
        record = records[name]
        assert (record.flavour, record.gpu, record.capability) == ("tensorrt-rtx", "portable", "any")
        assert record.seconds > 0 and record.peak_bytes and record.peak_bytes > 50_000_000
        assert record.options == OPTIONS
    assert records["encoder_DEM_DEM"].blocks is None


def test_only_what_changed_is_built_again(engines: Bundle, rtx: Flavour) -> None:
    found = build_engines(engines, rtx, OPTIONS)
    assert [one.reason for one in found] == [None] * 4
    encoder = next(one for one in found if one.record.component == "encoder_DEM_DEM").path
    encoder.write_bytes(encoder.read_bytes()[:-7])
    again = build_engines(engines, rtx, OPTIONS)
    assert [one.record.component for one in again if one.reason] == ["encoder_DEM_DEM"]
    other = build_engines(engines, rtx, replace(OPTIONS, batch=(1, 1, 2)), components=("encoder_*",))
    assert [one.reason for one in other] == ["batch is (1, 2, 4), not (1, 1, 2)"]
    assert [entry.problem for entry in entries(engines)] == [None] * 4


def test_progress_names_the_component_and_rises(half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:
    shutil.copytree(half_bundle, tmp_path / "bundle")
    told: list[tuple[str, int, int]] = []
    build_engines(
        Bundle.open(tmp_path / "bundle"), rtx, OPTIONS, components=("encoder_*",),
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    steps = [done for what, done, _ in told if what == "building encoder_DEM_DEM"]
    assert steps and steps == sorted(steps)
    assert told[-1] == ("engines", 1, 1)


def test_a_killed_build_leaves_the_cache_valid(half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:
    shutil.copytree(half_bundle, tmp_path / "bundle")
    opened = Bundle.open(tmp_path / "bundle")
    build_engines(opened, rtx, OPTIONS, components=("encoder_*",))
    command = [sys.executable, "-m", "copgen_edge.runtime.commands", "build", str(opened.root), "--batch", "1,2,4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _worker_of(process.pid):
        time.sleep(0.05)
    workers = _worker_of(process.pid)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "the builder outlived the build"
    good = [entry for entry in entries(opened) if entry.problem is None]
    assert any(entry.record and entry.record.component == "encoder_DEM_DEM" for entry in good)
    assert all(entry.path.name.endswith(".partial") for entry in entries(opened) if entry.problem)
    found = build_engines(opened, rtx, OPTIONS)
    assert next(one for one in found if one.record.component == "encoder_DEM_DEM").reason is None
    assert len([entry for entry in entries(opened) if entry.problem is None]) == 4


def _worker_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_builder_that_dies_is_told_of(
    engines: Bundle, rtx: Flavour, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that is killed for memory says nothing."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nread line\necho 'out of memory' >&2\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(building.sys, "executable", str(script))
    before = {entry.path: entry.path.stat().st_mtime_ns for entry in entries(engines)}
    with pytest.raises(EngineError, match=r"encoder_DEM_DEM ended with -9 and no engine: out of memory"):
        build_engines(engines, rtx, replace(OPTIONS, optimization_level=0))
    assert {entry.path: entry.path.stat().st_mtime_ns for entry in entries(engines)} == before


def test_a_file_that_does_not_parse_is_told_of(half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(half_bundle, root)
    bundle = Bundle.open(root)
    component = bundle.component("encoder_DEM_DEM")
    variant = component.precisions["fp16"]
    path = root / variant.files[0].path
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    changed = replace(component, precisions={"fp16": replace(variant, files=(FileRecord.of(root, path),))})
    components = {**bundle.manifest.components, component.name: changed}
    write_manifest(root, replace(bundle.manifest, components=components))
    with pytest.raises(EngineError, match=r"encoder_DEM_DEM: .* does not parse: .*NoSuchOperator"):
        build_engines(Bundle.open(root), rtx, OPTIONS)
    assert entries(Bundle.open(root)) == []


def test_what_cannot_be_built_is_refused_before_anything_is(
    half_bundle: Path, rtx: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(half_bundle)
    with pytest.raises(RequestError, match="names no component"):
        build_engines(bundle, rtx, OPTIONS, components=("dit_stop",))
    with pytest.raises(BundleError, match="not in fp32"):
        build_engines(bundle, rtx, OPTIONS, precision="fp32")
    monkeypatch.setattr(building, "gpus", lambda: ())
    with pytest.raises(BackendError, match="--flavour tensorrt-rtx"):
        build_engines(bundle, Flavour("tensorrt", "10.13", None), OPTIONS)
    assert not (half_bundle / "engines").exists()


def test_build_and_cache_on_the_command_line(run, half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(half_bundle, tmp_path / "bundle")
    root = tmp_path / "bundle"
    built: Outcome = run("build", root, "--batch", "1,2,4", "--components", "encoder_*,dit_step", "--json")
    assert built.code == 0, built.err
    assert {one["component"]: one["attention"] for one in built.json} == {
        "encoder_DEM_DEM": None,
        "dit_step": Bundle.open(root).manifest.model["depth"] + 1,
        "solver_update": None,
    }
    assert "tensorrt-rtx 1." in built.err and "3 built" in built.err and "warning" not in built.err
    assert "0 built" in run("build", root, "--batch", "1,2,4", "--components", "encoder_*,dit_step").err
    assert run("cache", "check", root).code == 0
    listed = run("cache", "list", root, "--json").json
    assert [entry["problem"] for entry in listed] == [None] * 3
    (root / listed[0]["path"]).write_bytes(b"")
    checked = run("cache", "check", root)
    assert checked.code == 2 and "1 of 3 cannot be used" in checked.err
    assert "removed 1 files" in run("cache", "prune", root).err
    assert "removed 2 files" in run("cache", "prune", root, "--all").err


def test_the_folder_one_works_in_does_not_matter(
    half_bundle: Path, rtx: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python module of the user's own may have any name."""
    shutil.copytree(half_bundle, tmp_path / "bundle")
    (tmp_path / "tempfile.py").write_text("print('mine'); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    (built, *_) = build_engines(Bundle.open("bundle"), rtx, OPTIONS, components=("encoder_*",))
    assert built.path.is_file()


def test_weights_that_stream_are_built_too(half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:
    shutil.copytree(half_bundle, tmp_path / "bundle")
    options = replace(OPTIONS, weight_streaming=True)
    (built,) = build_engines(Bundle.open(tmp_path / "bundle"), rtx, options, components=("encoder_*",))
    assert built.record.options.weight_streaming


def test_a_path_may_hold_what_a_terminal_takes_for_markup(run, half_bundle: Path, rtx: Flavour, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "runs[" / "v2]"
    shutil.copytree(half_bundle, root)
    assert run("build", root, "--components", "encoder_*").code == 0
    assert run("cache", "list", root).code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--components", ","), "no component was named"),
        (("--batch", "4,2,1"), "rising order"),
        (("--batch", "many"), "expected MIN,OPT,MAX"),
        (("--version-compatible", "--flavour", "tensorrt-rtx"), "lean runtime"),
        (("--compute-capability", "1.0", "--flavour", "tensorrt-rtx"), "not for 1.0"),
    ],
)
def test_wrong_requests_exit_with_two(
    run, half_bundle: Path, rtx: Flavour, arguments: tuple[str, ...], told: str
) -> None:  # type: ignore[no-untyped-def]
    outcome: Outcome = run("build", half_bundle, *arguments)
    assert outcome.code == 2 and told in outcome.err and "Traceback" not in outcome.err


@pytest.mark.slow
def test_all_components_of_a_small_model_build_in_half_precision(
    wide_checkpoint: Path, rtx: Flavour, tmp_path: Path
) -> None:
    from copgen_edge.export import exporter

    exporter.export_bundle(wide_checkpoint, tmp_path / "bundle", precisions=("fp16",))
    built = build_engines(Bundle.open(tmp_path / "bundle"), rtx, OPTIONS)
    assert [one.record.component for one in built] == [*COMPONENTS, UPDATE]
    assert all(one.record.bytes > 100_000 for one in built)
    step = next(one.record for one in built if one.record.component == "dit_step")
    assert step.attention == step.blocks


@pytest.mark.slow
def test_every_component_of_a_bundle_builds(bundle: Path, rtx: Flavour, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    built = build_engines(Bundle.open(tmp_path / "bundle"), rtx, BuildOptions(batch=(1, 1, 1)), precision="fp32")
    assert [one.record.component for one in built] == [*COMPONENTS, UPDATE]
    assert {entry.problem for entry in entries(Bundle.open(tmp_path / "bundle"))} == {None}


@pytest.mark.slow
def test_base_size_builds_in_half_precision_with_all_attentions_fused(rtx: Flavour, tmp_path: Path) -> None:
    from copgen_edge.copgen_ref.random_weights import write_random_checkpoint
    from copgen_edge.export import exporter

    checkpoint = write_random_checkpoint(tmp_path / "base", "base")
    exporter.export_bundle(checkpoint, tmp_path / "bundle", precisions=("fp16",), components=NAMES)
    built = build_engines(Bundle.open(tmp_path / "bundle"), rtx, BuildOptions())
    records = {one.record.component: one.record for one in built}
    assert records["dit_step"].attention == records["dit_step"].blocks == 21
    assert records["dit_step"].bytes > 500_000_000
