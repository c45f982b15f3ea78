from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from copgen_edge.copgen_ref import random_weights
from copgen_edge.copgen_ref.checkpoint import load_checkpoint
from copgen_edge.copgen_ref.random_weights import RANDOM_VARIANTS, write_random_checkpoint
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import BY_KEY, JOINT_SIZE, JOINT_SLICES, KEYS


def test_has_the_published_key_names_and_shapes(golden: Path, random_checkpoint: Path) -> None:
    published = {p.parent.name: p for p in (golden / "models").rglob("*.pth")}
    written = {p.parent.name: p for p in random_checkpoint.rglob("*.pth")}
    published["cop_gen_small"] = published.pop("copgen")
    assert set(written) == set(published)
    for name, path in written.items():
        found, expected = (torch.load(p, weights_only=True) for p in (path, published[name]))
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert json.loads((random_checkpoint / "config.json").read_text()) == {"num_heads": 4, "weights": "random"}


def test_activations_are_of_order_1(random_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(random_checkpoint)
    generator = torch.Generator().manual_seed(0)
    noise = checkpoint.network.forward_joint(
        torch.randn(1, JOINT_SIZE, generator=generator), torch.full((1, 12), 700.0)
    )
    for key in KEYS:
        assert 0.05 < noise[:, JOINT_SLICES[key]].std() < 3
    for key in ("DEM_DEM", "LULC_LULC", "S2L2A_B01_B09"):
        autoencoder = checkpoint.autoencoders[key]
        image = autoencoder.decode(torch.randn(1, *BY_KEY[key].latent_shape, generator=generator))
        assert 0.1 < image.std() < 3
        assert image.abs().max() < 20
        assert 0.1 < autoencoder.encode_moments(image.clamp(-1, 1)).std() < 3


def test_the_seed_decides(random_checkpoint: Path, tmp_path: Path) -> None:
    weights = [
        {p.parent.name: torch.load(p, weights_only=True) for p in folder.rglob("*.pth")}
        for folder in (
            random_checkpoint,
            write_random_checkpoint(tmp_path / "same", seed=7),
            write_random_checkpoint(tmp_path / "other", seed=8),
        )
    ]
    for name, state in weights[0].items():
        assert all(torch.equal(value, weights[1][name][key]) for key, value in state.items())
        assert any(not torch.equal(value, weights[2][name][key]) for key, value in state.items())
    twenty_metres = [state["quant_conv.weight"] for name, state in weights[0].items() if "96x96" in name]
    assert not torch.equal(*twenty_metres)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    save = torch.save

    def full_disk(state: object, path: Path) -> None:
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        save(state, path)
        saved.append(path)

    monkeypatch.setattr(random_weights.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_random_checkpoint(tmp_path / "weights")
    assert len(saved) == 3
    assert list(tmp_path.iterdir()) == []


def test_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(RequestError, match="holds something already"):
        write_random_checkpoint(tmp_path)
    with pytest.raises(RequestError, match="holds something already"):
        write_random_checkpoint(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    assert load_checkpoint(write_random_checkpoint(tmp_path / "empty")).missing == ()


def test_variants(tmp_path: Path) -> None:
    assert RANDOM_VARIANTS == ("small", "base", "large", "huge")
    with pytest.raises(RequestError, match="'tiny'; those with random weights are small, base"):
        write_random_checkpoint(tmp_path / "weights", "tiny")


@pytest.mark.slow
def test_base_loads_as_published(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_random_checkpoint(tmp_path / "base", "base"))
    assert "width 1024, depth 20, 16 heads, 286.99 M" in checkpoint.describe()
