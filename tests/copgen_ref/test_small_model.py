"""The checkpoint inside the package: what ships, found whole, missed by name, copied whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from copgen_edge.copgen_ref import small_model
from copgen_edge.copgen_ref.checkpoint import load_checkpoint
from copgen_edge.copgen_ref.files import find_checkpoint
from copgen_edge.copgen_ref.small_model import copy_small_checkpoint, small_checkpoint
from copgen_edge.copgen_ref.training.diffusion import ON_THE_GROUND, diffuse, modality_losses
from copgen_edge.copgen_ref.world import draw
from copgen_edge.copgen_ref.world_truth import HELD_OUT
from copgen_edge.runtime.errors import CheckpointError, RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, JOINT_SIZE, JOINT_SLICES, KEYS
from copgen_edge.runtime.transforms import to_model
from safetensors import safe_open

Ship = Callable[[Path], None]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Puts a folder where the package has its own."""

    def put(folder: Path) -> None:
        monkeypatch.setattr(small_model, "_FOLDER", folder)

    return put


def test_what_ships_fits_and_is_float16() -> None:
    folder = small_checkpoint()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 30_000_000
    files = find_checkpoint(folder)
    assert files.weights == "small-world"
    for path in (files.network_file(), *files.autoencoders.values()):
        assert path.suffix == ".safetensors"
        with safe_open(path, framework="pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_the_card_tells_data_training_figures_and_limits() -> None:
    card = (small_checkpoint() / "MODEL_CARD.md").read_text(encoding="utf-8")
    for heading in ("Data", "Training", "Reconstruction"):
        assert f"\n## {heading}" in card
    assert "toy world" in card and "Not for science" in card


def test_what_ships_was_trained() -> None:
    """It finds the noise in a held-out patch, and more of radar's where place, elevation, cover and date are given."""
    checkpoint = load_checkpoint(small_checkpoint())
    assert checkpoint.missing == ()
    clean = torch.empty(1, JOINT_SIZE)
    for key, values in draw(HELD_OUT).items():
        latent = torch.from_numpy(to_model(key, values))
        if key in IMAGE_KEYS:
            autoencoder = checkpoint.autoencoders[key]
            latent = autoencoder.sample_latent(autoencoder.encode_moments(latent))
        clean[:, JOINT_SLICES[key]] = latent.flatten(1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    times = torch.full((2, len(KEYS)), 700)
    times[1, ON_THE_GROUND] = 1
    predicted = checkpoint.network.forward_joint(diffuse(clean.expand(2, -1), times, noise), times.float())
    nothing, ground = (modality_losses(predicted[row, None], noise[row, None]) for row in (0, 1))
    assert float(nothing[[KEYS.index(key) for key in IMAGE_KEYS]].max()) < 0.02
    radar = KEYS.index("S1RTC_vh_vv")
    assert ground[radar] < 0.9 * nothing[radar]


def test_it_lies_beside_the_module() -> None:
    assert Path(small_model.__file__).parent / "small" == small_model._FOLDER


def test_a_whole_checkpoint_is_found(ship: Ship, random_checkpoint: Path) -> None:
    ship(random_checkpoint)
    assert small_checkpoint() == random_checkpoint


def test_a_package_without_it_says_so(ship: Ship, tmp_path: Path) -> None:
    ship(tmp_path / "small")
    with pytest.raises(CheckpointError, match=r"built without its small model .* train-small"):
        small_checkpoint()
    with pytest.raises(CheckpointError, match="built without"):
        copy_small_checkpoint(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_lacks_is_named(ship: Ship, partial_checkpoint: Callable[..., Path]) -> None:
    ship(partial_checkpoint("DEM_DEM", "LULC_LULC", network=False, config=False))
    with pytest.raises(CheckpointError) as caught:
        small_checkpoint()
    message = str(caught.value)
    assert "lacks the network, S1RTC_vh_vv" in message and "config.json" in message and "\n" not in message
    assert "DEM_DEM" not in message


def test_a_copy_is_a_checkpoint(ship: Ship, random_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(random_checkpoint, tmp_path / "small")
    (tmp_path / "small" / "MODEL_CARD.md").write_text("a card")
    ship(tmp_path / "small")
    out = tmp_path / "deep" / "copy"
    copy_small_checkpoint(out)
    assert (out / "MODEL_CARD.md").read_text() == "a card"
    found, source = find_checkpoint(out), find_checkpoint(random_checkpoint)
    assert found.missing == () and found.num_heads == source.num_heads and found.weights == source.weights
    assert found.network_file().read_bytes() == source.network_file().read_bytes()


def test_a_folder_that_holds_something_is_kept(ship: Ship, random_checkpoint: Path, tmp_path: Path) -> None:
    ship(random_checkpoint)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something already"):
        copy_small_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
