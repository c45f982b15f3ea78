"""The first weights of a network in training: a linear denoiser of patches, made from the latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from copgen_edge.copgen_ref.network import PATCH_SIZES, NetworkConfig, split_joint
from copgen_edge.copgen_ref.training import start
from copgen_edge.copgen_ref.training.diffusion import diffuse, modality_losses
from copgen_edge.copgen_ref.training.recipe import SMALL
from copgen_edge.copgen_ref.training.start import linear_start
from copgen_edge.copgen_ref.training.stream import lay_out
from copgen_edge.runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, MODALITIES
from copgen_edge.runtime.schedule import TRAIN_STEPS, alpha, sigma

TINY = replace(SMALL.network_config, width=32, depth=2, heads=2)
GRID = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_FIT_BATCHES", 6)


def gaussian(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Latents whose elements are independent, with variances from 4 down to 0.03 by channel, and the error of the best
    possible denoiser of each modality, which is linear."""
    rng = np.random.default_rng(seed)
    mean = np.empty((rows, JOINT_SIZE), np.float32)
    best = {}
    for m in MODALITIES:
        variances = np.geomspace(4, 0.03, m.latent_shape[0]) if m.is_image else np.array([1.0])
        shape = (rows, *m.latent_shape)
        values = rng.standard_normal(shape) * np.sqrt(variances)[:, None, None]
        mean[:, JOINT_SLICES[m.key]] = values.reshape(rows, -1)
        signal = alpha(GRID)[:, None] ** 2 * variances
        best[m.key] = float((signal / (signal + sigma(GRID)[:, None] ** 2)).mean())
    return mean, np.zeros_like(mean), best


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_stream_alone() -> None:
    mean, deviation, _ = gaussian(8)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other = (linear_start(TINY, mean, deviation, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.isfinite(value).all(), name
    assert not torch.equal(one.in_blocks[0].mlp.fc2.weight, other.in_blocks[0].mlp.fc2.weight)


def test_what_it_starts_with_is_close_to_the_best_denoiser_of_independent_gaussians() -> None:
    mean, deviation, best = gaussian(256)
    network = linear_start(NetworkConfig(width=96, depth=2, heads=2, patch_sizes=PATCH_SIZES), mean, deviation, 0)
    fresh = torch.from_numpy(gaussian(24, seed=1)[0])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(fresh.shape, generator=generator)
    times = torch.randint(1, TRAIN_STEPS + 1, (len(fresh), len(KEYS)), generator=generator)
    with torch.no_grad():
        losses = modality_losses(network.forward_joint(diffuse(fresh, times, noise), times.float()), noise)
    assert losses.sum() < 1.15 * sum(best.values())


def test_tokens_of_one_place_are_alike_across_modalities_and_others_are_not() -> None:
    mean, deviation, _ = gaussian(8)
    embedded = linear_start(replace(TINY, width=96), mean, deviation, 0).pos_embed[0]
    parts = dict(zip(KEYS, embedded[12:].split(TINY.patch_tokens), strict=True))
    centred = [part - part.mean(dim=0) for part in (parts["S2L1C_B02_B03_B04_B08"], parts["LULC_LULC"])]
    near = torch.nn.functional.cosine_similarity(centred[0], centred[1], dim=1)
    far = torch.nn.functional.cosine_similarity(centred[0], centred[1].roll(17, 0), dim=1)
    assert near.min() > 0.99
    assert far.mean() < 0.5


def test_the_land_cover_of_a_place_helps_from_the_first_step() -> None:
    mean, deviation, _ = gaussian(128)
    cover, radar = JOINT_SLICES["LULC_LULC"], JOINT_SLICES["S1RTC_vh_vv"]
    mean[:, radar] = mean[:, cover]
    network = linear_start(replace(TINY, width=192, heads=8), mean, deviation, 0)
    clean = torch.from_numpy(gaussian(16, seed=1)[0])
    clean[:, radar] = clean[:, cover]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for known in (False, True):
        times = torch.full((len(clean), len(KEYS)), 500)
        times[:, KEYS.index("LULC_LULC")] = 1 if known else TRAIN_STEPS
        with torch.no_grad():
            found = network.forward_joint(diffuse(clean, times, noise), times.float())
        errors.append(float((found - noise)[:, radar].square().mean()))
    # Ten of the cover's directions fit into a network this narrow; without them the ratio is 0.999.
    assert errors[1] < 0.99 * errors[0]


def test_heads_that_look_at_elevation_see_the_ground_they_stand_on() -> None:
    mean, deviation, _ = gaussian(16)
    config = SMALL.network_config
    network = linear_start(config, mean, deviation, 0)
    clean = torch.from_numpy(gaussian(4, seed=1)[0]) * 0.1
    times = torch.full((4, len(KEYS)), TRAIN_STEPS)
    times[:, KEYS.index("DEM_DEM")] = 1
    noisy = split_joint(diffuse(clean, times, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))))
    ends = np.cumsum([len(KEYS), *config.patch_tokens]).tolist()
    heights, radar = (slice(*ends[i : i + 2]) for i in map(KEYS.index, ("DEM_DEM", "S1RTC_vh_vv")))
    with torch.no_grad():
        patches = [embed(latent) for embed, latent in zip(network.patch_embeds, noisy, strict=True)]
        stream = torch.cat([network.time_tokens(times.float()), *patches], dim=1) + network.pos_embed
        for block, head in ((network.in_blocks[0], 10), (network.mid_block, 11)):
            parts = block.attn.qkv(stream).reshape(4, config.tokens, 3, config.heads, -1)[:, :, :, head]
            query, key, value = parts.unbind(2)
            seen = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1)[:, radar, heights]
            assert seen.sum(dim=-1).min() > 0.8
            assert seen.max(dim=-1).values.mean() > 0.5
            centres = (torch.arange(64).reshape(8, 8) // 8 + 0.5).flatten() / 8
            own = (torch.arange(36) // 6 + 0.5) / 6
            assert (seen @ centres / seen.sum(dim=-1) - own).abs().max() < 0.5 / 6
            # All eight numbers of a patch of it are read.
            assert torch.linalg.matrix_rank(value[:, heights].flatten(0, 1), rtol=1e-2) >= 8
            stream = block(stream)


def test_the_first_block_tells_each_place_its_elevation() -> None:
    mean, deviation, _ = gaussian(16)
    network = linear_start(SMALL.network_config, mean, deviation, 0)
    generator = torch.Generator().manual_seed(0)
    # Patches that are level, so that it does not matter how far a head looks.
    level = torch.randn(32, 8, 1, 1, generator=generator).expand(-1, -1, 8, 8)
    times = torch.full((32, len(KEYS)), TRAIN_STEPS)
    times[:, KEYS.index("DEM_DEM")] = 1
    noisy = torch.randn(32, JOINT_SIZE, generator=generator)
    noisy[:, JOINT_SLICES["DEM_DEM"]] = level.flatten(1)
    with torch.no_grad():
        tokens = torch.cat(
            [
                network.time_tokens(times.float()),
                *(embed(latent) for embed, latent in zip(network.patch_embeds, split_joint(noisy), strict=True)),
            ],
            dim=1,
        )
        stream = tokens + network.pos_embed
        told = network.in_blocks[0].attn(stream) @ lay_out(network).relief.float()
    first = len(KEYS) + sum(SMALL.network_config.patch_tokens[: KEYS.index("S1RTC_vh_vv")])
    seen, known = told[:, first].double(), level[:, :, 0, 0].double()
    known = torch.nn.functional.pad(known, (0, 1), value=1.0)
    left = seen - known @ torch.linalg.lstsq(known, seen).solution
    assert seen.var(dim=0).max() > 0.5
    assert left.square().sum() < 0.05 * seen.var(dim=0, correction=0).sum() * len(seen)


def test_the_first_block_tells_each_place_the_season_and_the_latitude() -> None:
    mean, deviation, _ = gaussian(16)
    network = linear_start(SMALL.network_config, mean, deviation, 0)
    given = {"mean_timestamps": 1, "3d_cartesian_lat_lon": 2}
    times = torch.full((32, len(KEYS)), TRAIN_STEPS)
    times[:, [KEYS.index(key) for key in given]] = 1
    noisy = torch.randn(32, JOINT_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        patches = [embed(latent) for embed, latent in zip(network.patch_embeds, split_joint(noisy), strict=True)]
        stream = torch.cat([network.time_tokens(times.float()), *patches], dim=1) + network.pos_embed
        told = network.in_blocks[0].attn(stream) @ lay_out(network).sun.float()
    first = len(KEYS) + sum(SMALL.network_config.patch_tokens[: KEYS.index("S2L2A_B02_B03_B04_B08")])
    for at, (key, token) in enumerate(given.items()):
        known, seen = noisy[:, JOINT_SLICES[key]][:, token], told[:, first, at]
        assert torch.corrcoef(torch.stack([known, seen]))[0, 1].abs() > 0.98
        assert seen.std() > 0.5
