"""A bundle of three components in half precision, and engines of it, where TensorRT-RTX is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.engines.build import build_engines
from copgen_edge.runtime.engines.flavours import Flavour, find_flavour
from copgen_edge.runtime.engines.options import BuildOptions
from copgen_edge.runtime.errors import BackendError

NAMES = ("encoder_DEM_DEM", "dit_step", "decoder_S2L2A_B01_B09")
OPTIONS = BuildOptions(batch=(1, 2, 4))


@pytest.fixture(scope="session")
def rtx() -> Flavour:
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
    exporter.export_bundle(wide_checkpoint, out, precisions=("fp16",), components=NAMES)
    return out


@pytest.fixture(scope="session")
def built_bundle(rtx: Flavour, half_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its engines; tests must not write in it."""
    out = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(half_bundle, out)
    build_engines(Bundle.open(out), rtx, OPTIONS)
    return out


@pytest.fixture
def engines(built_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy of the bundle with its engines, to be damaged."""
    shutil.copytree(built_bundle, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")
