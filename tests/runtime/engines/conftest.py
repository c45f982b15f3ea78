"""Engines of a bundle of three components in half precision, where TensorRT-RTX is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.engines.build import build_engines
from copgen_edge.runtime.engines.flavours import Flavour
from copgen_edge.runtime.engines.options import BuildOptions

OPTIONS = BuildOptions(batch=(1, 2, 4))


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
