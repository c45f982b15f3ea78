from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copgen_edge.copgen_ref.checkpoint import Checkpoint
from copgen_edge.copgen_ref.network import PATCH_SIZES, VARIANTS, CopgenNetwork, NetworkConfig
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, MODALITIES
from torch import Tensor

SMALL = NetworkConfig(width=32, depth=2, heads=2)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def network() -> CopgenNetwork:
    torch.manual_seed(0)
    model = CopgenNetwork(SMALL).eval().requires_grad_(False)
    model.pos_embed.normal_()
    return model


@pytest.fixture
def joint() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, JOINT_SIZE, generator=generator), torch.rand(2, 12, generator=generator) * 1000


def as_dicts(joint: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    latents, timesteps = joint
    return (
        {m.key: latents[:, JOINT_SLICES[m.key]].reshape(-1, *m.latent_shape) for m in MODALITIES},
        {key: timesteps[:, i] for i, key in enumerate(KEYS)},
    )


def test_predicts_the_golden_noise(golden: Path, golden_checkpoint: Checkpoint) -> None:
    with np.load(golden / "dit_step.npz") as step:
        latents = {key: torch.from_numpy(step[f"z/{key}"]) for key in KEYS}
        timesteps = {key: torch.from_numpy(step[f"t/{key}"]) for key in KEYS}
        expected = {key: torch.from_numpy(step[f"eps/{key}"]) for key in KEYS}
    noise = golden_checkpoint.network(latents, timesteps)
    assert list(noise) == list(KEYS)
    for key in KEYS:
        assert noise[key].shape == expected[key].shape
        assert relative_error(noise[key], expected[key]) < 1e-5, key


def test_the_joint_latent_is_the_twelve_in_network_order(network: CopgenNetwork, joint: tuple[Tensor, Tensor]) -> None:
    noise = network(*as_dicts(joint))
    assert noise["mean_timestamps"].shape == (2, 1, 1, 3)
    flat = torch.cat([noise[key].flatten(1) for key in KEYS], dim=1)
    assert torch.equal(network.forward_joint(*joint), flat)


@pytest.mark.parametrize("index", range(12))
def test_every_timestep_reaches_every_modality(
    network: CopgenNetwork, joint: tuple[Tensor, Tensor], index: int
) -> None:
    latents, timesteps = joint
    before = network.forward_joint(latents, timesteps)
    timesteps = timesteps.clone()
    timesteps[:, index] += 0.25
    change = network.forward_joint(latents, timesteps) - before
    for key in KEYS:
        assert change[:, JOINT_SLICES[key]].abs().max() > 1e-6, key


def test_patch_4_reads_and_writes_the_whole_latent(joint: tuple[Tensor, Tensor]) -> None:
    network = CopgenNetwork(replace(SMALL, patch_sizes=(1, *(4,) * 10, 1))).eval().requires_grad_(False)
    assert network.pos_embed.shape[1] == 12 + 6 + 204
    latents, timesteps = joint
    before = network.forward_joint(latents, timesteps)
    last = JOINT_SLICES["S2L2A_B01_B09"].stop - 1
    latents = latents.clone()
    latents[:, last] += 1
    change = network.forward_joint(latents, timesteps) - before
    assert change[:, last].abs().min() > 1e-4


def test_a_patch_is_written_row_column_channel(joint: tuple[Tensor, Tensor]) -> None:
    network = CopgenNetwork(SMALL).eval().requires_grad_(False)
    head = network.get_submodule("decoder_preds.1")
    head.load_state_dict({"weight": torch.zeros(32, 32), "bias": torch.arange(32.0)})
    noise = network(*as_dicts(joint))["DEM_DEM"]
    row, column, channel = 3, 6, 5
    assert noise[0, channel, row, column] == (row % 2 * 2 + column % 2) * 8 + channel


@pytest.mark.parametrize(("variant", "millions"), [("base", 286.99), ("large", 501.09), ("huge", 951.27)])
def test_variants_have_the_published_size(variant: str, millions: float) -> None:
    with torch.device("meta"):
        network = CopgenNetwork(VARIANTS[variant])
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert network.config.tokens == 834


def test_half_precision_weights_give_float32_noise_close_by(
    network: CopgenNetwork, joint: tuple[Tensor, Tensor]
) -> None:
    expected = network.forward_joint(*joint)
    found = network.half().forward_joint(*joint)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 5e-3


def test_half_precision_weights_do_not_round_the_timestep(network: CopgenNetwork, joint: tuple[Tensor, Tensor]) -> None:
    seen: list[Tensor] = []
    network.pos_embed.zero_()
    network.half().in_blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.forward_joint(joint[0], torch.full((2, 12), 999.7))
    angles = 999.7 * 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    expected = torch.cat([angles.cos(), angles.sin()])
    assert torch.allclose(seen[0][:, :12].double(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "do not divide"),
        ({"heads": 0}, "do not divide"),
        ({"width": 33, "heads": 1}, "even"),
        ({"depth": 3}, "depth is 3"),
        ({"patch_sizes": (1, 2)}, "2 patch sizes"),
        ({"patch_sizes": (1, 5, *PATCH_SIZES[2:])}, "patch size 5 of DEM_DEM"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        replace(SMALL, **changes)


def test_a_missing_or_unknown_modality_is_named(network: CopgenNetwork, joint: tuple[Tensor, Tensor]) -> None:
    latents, timesteps = as_dicts(joint)
    with pytest.raises(RequestError, match=r"timesteps .*DEM_DEM"):
        network(latents, {key: t for key, t in timesteps.items() if key != "DEM_DEM"})
    with pytest.raises(RequestError, match=r"latents .*S3"):
        network({**latents, "S3": latents["DEM_DEM"]}, timesteps)
