"""Fixtures that several rooms share: recorded tensors, real data, and one bundle exported for the whole session."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from copgen_edge.runtime.bundle import Bundle, write_manifest
from copgen_edge.runtime.engines.flavours import Flavour, find_flavour
from copgen_edge.runtime.errors import BackendError

if TYPE_CHECKING:
    from copgen_edge.calibration.trajectories import Trajectories

HALF = ("encoder_DEM_DEM", "dit_step", "decoder_S2L2A_B01_B09")
"""What :func:`half_bundle` holds."""

FEW = ("dit_step", "decoder_S2L2A_B01_B09", "decoder_S2L1C_cloud_mask")
"""What :func:`few_bundle` holds: of the decoders one of images and one of codes, for all ten take their time."""

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    found = SHARED / name
    if not found.is_dir():
        pytest.skip(f"shared/{name} is not beside the project")
    return found


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tensors recorded from the authors' code."""
    return _folder("golden")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real Sentinel data."""
    return _folder("data")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint: the recorded one where it is beside the project, random weights otherwise."""
    if (SHARED / "golden/models").is_dir():
        return SHARED / "golden/models"
    from copgen_edge.copgen_ref.random_weights import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("random") / "checkpoint")


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of ``checkpoint``, all 21 components; tests must not write in it."""
    from copgen_edge.export import exporter

    out = tmp_path_factory.mktemp("exported") / "bundle"
    exporter.export_bundle(checkpoint, out, workers=2)
    return out


@pytest.fixture(scope="session")
def golden_bundle(golden: Path, bundle: Path) -> Path:
    """``bundle``, where it is the recorded checkpoint's."""
    return bundle


@pytest.fixture(scope="session")
def few_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle`` with three of its components; tests must not write in it."""
    out = tmp_path_factory.mktemp("few") / "bundle"
    manifest = Bundle.open(bundle).manifest
    unused = {
        Path(file.path).name
        for name, component in manifest.components.items()
        if name not in FEW
        for variant in component.precisions.values()
        for file in variant.files
    }
    shutil.copytree(bundle, out, ignore=lambda folder, names: unused & set(names))
    write_manifest(out, replace(manifest, components={name: manifest.components[name] for name in FEW}))
    return out


@pytest.fixture(scope="session")
def recording(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """A recording of ``bundle`` by a pretended engine: quick, and as good as any where only numbers are compared. Tests
    must not write in it."""
    from .calibration.small_recording import small

    return small(bundle, tmp_path_factory.mktemp("recording") / "calib")


@pytest.fixture(scope="session")
def report(few_bundle: Path, recording: Trajectories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 'calibrate sensitivity' writes about ``few_bundle``; tests must not write in it."""
    pytest.importorskip("matplotlib")
    from click.testing import CliRunner
    from copgen_edge.runtime.commands import main

    out = tmp_path_factory.mktemp("report") / "sensitivity"
    asked = ["calibrate", "sensitivity", str(few_bundle), "--calib", str(recording.root), "--replays", "1"]
    done = CliRunner().invoke(main, [*asked, "--precision", "int8-weights", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "Decoded values of one run" in done.stderr and "two seeds of fp32 differ by" in done.stderr
    assert json.loads(done.stdout) == json.loads((out / "sensitivity.json").read_text())
    return out


@pytest.fixture(scope="session")
def rtx() -> Flavour:
    """TensorRT-RTX, where it is installed."""
    try:
        return find_flavour("tensorrt-rtx")
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def wide_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkpoint`` with a network whose heads have 64 numbers, as the published ones: narrower ones are not fused."""
    import torch
    from copgen_edge.copgen_ref.network import CopgenNetwork, NetworkConfig

    folder = tmp_path_factory.mktemp("wide") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (old,) = folder.rglob("*nnet_ema.pth")
    torch.manual_seed(0)
    torch.save(CopgenNetwork(NetworkConfig(width=128, depth=2, heads=2)).state_dict(), old)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_heads": 2}))
    return folder


@pytest.fixture(scope="session")
def half_bundle(wide_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three components in fp16; tests must not write in it."""
    from copgen_edge.export import exporter

    out = tmp_path_factory.mktemp("half") / "bundle"
    exporter.export_bundle(wide_checkpoint, out, precisions=("fp16",), components=HALF, workers=2)
    return out
