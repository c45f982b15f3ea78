"""The checkpoint inside the package: what ships, found whole, missed by name, copied whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from copgen_edge.copgen_ref import small_model
from copgen_edge.copgen_ref.checkpoint import load_checkpoint
from copgen_edge.copgen_ref.files import find_checkpoint
from copgen_edge.copgen_ref.small_model import copy_small_checkpoint, small_checkpoint
from copgen_edge.copgen_ref.training.diffusion import NOISE, ON_THE_GROUND, SIGNAL, diffuse, modality_losses
from copgen_edge.copgen_ref.training.light import light_on_slopes
from copgen_edge.copgen_ref.world import draw
from copgen_edge.copgen_ref.world_truth import HELD_OUT
from copgen_edge.runtime.errors import CheckpointError, RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, JOINT_SIZE, JOINT_SLICES, KEYS
from copgen_edge.runtime.transforms import to_model, to_physical
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


def test_relief_is_shaded_from_elevation_place_and_date_alone() -> None:
    """Turned round, the relief of a held-out patch moves the light of its first call, as it moves that of the world."""
    checkpoint = load_checkpoint(small_checkpoint())
    optical = "S2L2A_B02_B03_B04_B08"
    given = draw(5624, place=(42.61, 107.97), date=date(2021, 10, 15))
    turned = given | {"DEM_DEM": np.ascontiguousarray(given["DEM_DEM"][:, :, ::-1, ::-1])}
    noise = torch.randn(1, JOINT_SIZE, generator=torch.Generator().manual_seed(0))
    times = torch.full((1, len(KEYS)), 1000.0)
    times[:, ON_THE_GROUND] = 1.0
    seen, shone = [], []
    for patch in (given, turned):
        compact = {key: to_model(key, values) for key, values in patch.items()}
        noisy = noise.clone()
        for index in ON_THE_GROUND:
            key, latent = KEYS[index], torch.from_numpy(compact[KEYS[index]])
            if key in IMAGE_KEYS:
                autoencoder = checkpoint.autoencoders[key]
                latent = autoencoder.sample_latent(autoencoder.encode_moments(latent))
            noisy[:, JOINT_SLICES[key]] = latent.flatten(1)
        found = checkpoint.network.forward_joint(noisy, times)
        clean = ((noise - float(NOISE[-1]) * found) / float(SIGNAL[-1]))[:, JOINT_SLICES[optical]]
        decoded = to_physical(optical, checkpoint.autoencoders[optical].decode(clean.reshape(1, 8, 24, 24)).numpy())
        seen.append(np.log(decoded.clip(50)).mean(axis=(0, 1)).reshape(8, 24, 8, 24).mean(axis=(1, 3)))
        shone.append(light_on_slopes(compact)[0].astype(np.float64).reshape(8, 3, 8, 3).mean(axis=(1, 3)))
    change, wanted = ((two[0] - two[1]).ravel() for two in (seen, shone))
    assert np.corrcoef(change, wanted)[0, 1] > 0.5
    assert np.polyfit(wanted, change, 1)[0] > 0.3


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
