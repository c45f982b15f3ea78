"""Checkpoints and golden tensors that the tests of the reference share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from copgen_edge.copgen_ref.checkpoint import Checkpoint, load_checkpoint
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS
from copgen_edge.copgen_ref.random_weights import write_random_checkpoint


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = Path(__file__).parents[2] / "../shared/golden"
    if not folder.is_dir():
        pytest.skip("no ../shared/golden beside the project: nothing to compare with")
    return folder


@pytest.fixture(scope="session")
def golden_checkpoint(golden: Path) -> Checkpoint:
    return load_checkpoint(golden / "models")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("weights") / "small", "small", seed=7)


@pytest.fixture
def partial_checkpoint(random_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies some components of the random checkpoint to a folder that the test may damage."""

    def copy(*keys: str, network: bool = True, config: bool = True) -> Path:
        target = tmp_path / "checkpoint"
        target.mkdir()
        if network:
            shutil.copytree(random_checkpoint / "models/copgen", target / "models/copgen")
        if config:
            shutil.copy(random_checkpoint / "config.json", target)
        for key in keys:
            folder = f"models/vae/{AUTOENCODER_FOLDERS[key]}"
            shutil.copytree(random_checkpoint / folder, target / folder)
        return target

    return copy
