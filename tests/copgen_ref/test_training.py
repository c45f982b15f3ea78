"""The training of the small model: its arithmetic, what a second call resumes, and the checkpoint that comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from copgen_edge.copgen_ref import load_checkpoint
from copgen_edge.copgen_ref.network import Attention, CopgenNetwork, NetworkConfig
from copgen_edge.copgen_ref.training import small
from copgen_edge.copgen_ref.training.autoencoders import encode, new_autoencoder, relief, train_autoencoder
from copgen_edge.copgen_ref.training.compute import Compute, learning_rate
from copgen_edge.copgen_ref.training.data import compact_patch, crops, to_tensor, training_seeds, winter_seeds
from copgen_edge.copgen_ref.training.denoiser import NetworkTraining, quadrant_losses
from copgen_edge.copgen_ref.training.diffusion import (
    FIRST_CALL_WEIGHT,
    NOISE,
    ON_THE_GROUND,
    SIGNAL,
    diffuse,
    draw_first_calls,
    draw_ground_times,
    draw_times,
    modality_losses,
    without_trace,
)
from copgen_edge.copgen_ref.training.light import LIGHT_KEYS, LightHead, LightOnLatents, light_on_slopes
from copgen_edge.copgen_ref.training.recipe import LATENT_STD, SMALL, AutoencoderRecipe, NetworkRecipe, Recipe
from copgen_edge.copgen_ref.training.samples import sample_latents
from copgen_edge.copgen_ref.training.small import train_small
from copgen_edge.copgen_ref.world import draw
from copgen_edge.copgen_ref.world.climate import climate_at, sun_on
from copgen_edge.copgen_ref.world.surface import illumination
from copgen_edge.copgen_ref.world_truth import HELD_OUT
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, JOINT_SIZE, JOINT_SLICES, KEYS, MODALITIES, get
from copgen_edge.runtime.schedule import alpha, sigma
from copgen_edge.runtime.transforms import to_model, to_physical
from safetensors.torch import load_file

CPU = Compute(torch.device("cpu"), bfloat16=False)
TINY = replace(SMALL.network_config, width=32, depth=2, heads=2)


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def patches() -> dict[str, np.ndarray]:
    rows = [compact_patch(seed) for seed in range(3)]
    return {key: np.stack([row[key] for row in rows]) for key in KEYS}


def shone(rows: int) -> np.ndarray:
    """Light on the ground of as many patches, some of it steep."""
    tilt = 0.5 * (-1.0) ** np.arange(rows)[:, None, None] * np.linspace(-1, 1, 24)[:, None]
    return tilt.repeat(24, axis=2).astype(np.float16)


def latents(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((rows, JOINT_SIZE)).astype(np.float32)
    return mean, np.full_like(mean, 0.1)


@pytest.mark.parametrize("key", KEYS)
def test_a_compact_patch_is_the_worlds_patch_in_model_space(patches: dict[str, np.ndarray], key: str) -> None:
    expected = to_model(key, draw(2)[key])[0]
    found = to_tensor(key, patches[key])[2].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # Half precision has steps of 4 m at an elevation of 2000 m: between pixels of 30 m, a slope of 0.15.
    if key == "DEM_DEM":
        assert np.array_equal(found, expected)


def test_crops_are_parts_of_the_images_on_multiples_of_eight(patches: dict[str, np.ndarray]) -> None:
    found = crops("DEM_DEM", patches, 5, 32, np.random.default_rng(0)).numpy()
    assert found.shape == (5, 1, 32, 32)
    places = [
        image[:, top : top + 32, left : left + 32].astype(np.float32)
        for image in patches["DEM_DEM"]
        for top in range(0, 33, 8)
        for left in range(0, 33, 8)
    ]
    for crop in found:
        assert any(np.array_equal(crop, place) for place in places)
    assert len({crop.tobytes() for crop in found}) > 1


def test_training_and_held_out_seeds_never_meet() -> None:
    for run in (0, 1, 399):
        seeds = training_seeds(run, SMALL.scaled(100).patches)
        assert seeds[-1] < HELD_OUT
    assert not set(training_seeds(0, 4096)) & set(training_seeds(1, 4096))
    for run in (0, 399):
        winters = winter_seeds(run, SMALL.scaled(100).winter_patches)
        assert training_seeds(run, SMALL.scaled(100).patches)[-1] < winters[0] and winters[-1] < HELD_OUT
    assert winter_seeds(0, 100_000)[-1] < training_seeds(1, 1)[0]


def test_places_of_winter_seeds_have_a_winter_and_others_are_the_worlds() -> None:
    key = "3d_cartesian_lat_lon"
    for seed in winter_seeds(0, 20):
        found = compact_patch(seed, [key])[key]
        climate = climate_at(*to_physical(key, found[None])[0])
        assert climate.mean_temperature - climate.seasonal_amplitude < 0.01 and climate.warmest > 5.99
    np.testing.assert_array_equal(compact_patch(3, [key])[key], to_model(key, draw(3)[key])[0].astype(np.float32))


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 10, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2, rel=0.02)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_diffusion_gives_each_modality_its_own_share_of_noise() -> None:
    clean, noise = torch.full((2, JOINT_SIZE), 3.0), torch.full((2, JOINT_SIZE), 5.0)
    times = torch.arange(1, 25).reshape(2, 12) * 40
    found = diffuse(clean, times, noise).numpy()
    for row in range(2):
        for i, key in enumerate(KEYS):
            t = float(times[row, i]) / 1000
            np.testing.assert_allclose(found[row, JOINT_SLICES[key]], 3 * alpha(t) + 5 * sigma(t), rtol=1e-5)


def test_each_modality_counts_alike_in_the_objective() -> None:
    predicted, noise = torch.zeros(2, JOINT_SIZE), torch.zeros(2, JOINT_SIZE)
    for i, key in enumerate(KEYS):
        noise[:, JOINT_SLICES[key]] = float(i)
    assert modality_losses(predicted, noise).tolist() == pytest.approx([i**2 for i in range(12)])


def test_rows_count_by_their_weights() -> None:
    predicted, noise = torch.zeros(2, JOINT_SIZE), torch.tensor([[1.0], [3.0]]).repeat(1, JOINT_SIZE)
    weights = torch.ones(2, 12)
    weights[1, 4] = 0
    assert modality_losses(predicted, noise, weights).tolist() == pytest.approx(
        [0.5 if i == 4 else 5 for i in range(12)]
    )


def test_times_are_independent_or_those_of_sampling() -> None:
    times, weights = draw_times(4000, 2000, torch.Generator().manual_seed(0))
    assert times.min() == 1 and times.max() == 1000
    sampled, independent = times[:2000], times[2000:]
    assert (weights[2000:] == 1).all()
    assert np.abs(np.corrcoef(independent.numpy().T) - np.eye(12)).max() < 0.1
    assert all(abs(float(column.float().mean()) - 500.5) < 25 for column in independent.T)
    for row, weight in zip(sampled, weights[:2000], strict=True):
        moving = row[weight > 0]
        assert len(set(moving.tolist())) <= 1 and set(row[weight == 0].tolist()) <= {1, 1000}
        if len(moving):
            t = float(moving[0]) / 1000
            images = weight[[KEYS.index(key) for key in IMAGE_KEYS]]
            if images.max() > 0:
                wanted = np.clip((sigma(t) / (LATENT_STD * alpha(t))) ** 2, 1, 50)
                assert images.max() == pytest.approx(wanted, rel=1e-4)
    given, absent = (sampled == 1).float().mean(), ((sampled == 1000) & (weights[:2000] == 0)).float().mean()
    assert 0.45 < given < 0.55 and 0.04 < absent < 0.09


def test_times_of_samples_from_the_ground_share_one_that_is_not_given() -> None:
    times, weights = draw_ground_times(2000, torch.Generator().manual_seed(0))
    given = times == 1
    assert 0.89 < given[:, ON_THE_GROUND].float().mean() < 0.95
    for name, share in (
        ("S2L1C_B02_B03_B04_B08", 0.15),
        ("S1RTC_vh_vv", 0.1),
        ("S2L1C_cloud_mask", 0.3),
        ("S2L2A_B02_B03_B04_B08", 0),
    ):
        assert float(given[:, KEYS.index(name)].float().mean()) == pytest.approx(share, abs=0.03)
    for row, weight in zip(times, weights, strict=True):
        assert len(set(row[weight > 0].tolist())) == 1 and (row[weight == 0] == 1).all()
        assert 200 <= int(row.max()) <= 1000
    late = weights[times.max(dim=1).values > 990]
    assert float(late.max()) == pytest.approx(50, rel=1e-4)
    none = draw_ground_times(0, torch.Generator())
    assert none[0].shape == none[1].shape == (0, 12)


def test_first_calls_start_from_noise_and_errors_count_in_units_of_the_latents() -> None:
    random = torch.Generator().manual_seed(0)
    times, weights = draw_first_calls(2000, random)
    given = times == 1
    assert 0.89 < given[:, ON_THE_GROUND].float().mean() < 0.95
    assert ((times == 1000) == ~given).all() and ((weights > 0) == ~given).all()
    image = KEYS.index("S2L2A_B02_B03_B04_B08")
    clean, noise = torch.randn(2, 26118, generator=random) * LATENT_STD, torch.randn(2, 26118, generator=random)
    # An error of the noise that moves the latents by their standard deviation.
    moved = (LATENT_STD * SIGNAL[-1] / NOISE[-1]).square()
    assert float(weights[0, image] * moved) == pytest.approx(FIRST_CALL_WEIGHT, rel=1e-6)

    both = times[:2].clone()
    both[:, 0] = torch.tensor([1, 300])
    noisy, wanted = without_trace(clean, both, noise, slice(1, None))
    usual = diffuse(clean, both, noise)
    assert torch.equal(noisy[0], usual[0]) and torch.equal(wanted[0], noise[0])
    for key, time in zip(KEYS, both[1].tolist(), strict=True):
        at = JOINT_SLICES[key]
        assert torch.equal(noisy[1, at], (noise if time == 1000 else usual)[1, at])
    torch.testing.assert_close(diffuse(clean, both, wanted)[1], noisy[1], rtol=1e-5, atol=1e-5)
    none = draw_first_calls(0, random)
    assert none[0].shape == none[1].shape == (0, 12)


def untrained(config: NetworkConfig = TINY, seed: int = 3) -> CopgenNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CopgenNetwork(config)
        torch.nn.init.normal_(network.pos_embed)
    return network


def test_errors_along_a_direction_count_more() -> None:
    noise = torch.zeros(2, JOINT_SIZE)
    key = "S2L2A_B01_B09"
    part, size = JOINT_SLICES[key], get(key).latent_size
    along = torch.zeros(2, JOINT_SIZE)
    along[0, part] = 2 / size**0.5
    wrong = torch.ones(2, JOINT_SIZE)
    losses = modality_losses(wrong, noise, along=along)
    assert losses[KEYS.index(key)] == pytest.approx((1 + 4 + 1) / 2) and losses.sum() == pytest.approx(11 + 3)
    # One across it counts as ever.
    wrong[:, part] = torch.tensor([1.0, -1.0]).repeat(size // 2)
    assert modality_losses(wrong, noise, along=along).tolist() == pytest.approx([1.0] * 12)


def test_the_four_quadrants_of_a_patch_are_the_patch() -> None:
    """For a network that looks at no neighbours."""
    network = untrained()
    for module in network.modules():
        if isinstance(module, Attention):
            torch.nn.init.zeros_(module.proj.weight)
    noisy, noise = (torch.randn(1, JOINT_SIZE, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    times = torch.linspace(1, 1000, 12)[None]
    with torch.no_grad():
        whole = modality_losses(network.forward_joint(noisy, times), noise)
        each = [quadrant_losses(network, noisy, times, noise, torch.tensor([i]), torch.ones(1, 12)) for i in range(4)]
        two = [x.repeat(2, 1) for x in (noisy, times, noise)]
        weights = torch.tensor([[2.0], [0.5]]).repeat(1, 12)
        both = quadrant_losses(network, *two, torch.tensor([3, 1]), weights)
        # Along one pixel that lies in the second quadrant alone.
        along = torch.zeros(1, JOINT_SIZE)
        part = JOINT_SLICES["S2L2A_B02_B03_B04_B08"]
        along[0, part.start + 3 * 24 + 20] = 10.0
        leaning = modality_losses(network.forward_joint(noisy, times), noise, along=along) - whole
        quarters = [
            quadrant_losses(network, noisy, times, noise, torch.tensor([i]), torch.ones(1, 12), along) for i in range(4)
        ]
    torch.testing.assert_close(torch.stack(each).mean(dim=0), whole)
    torch.testing.assert_close(both, (0.5 * each[1] + 2 * each[3]) / 2)
    assert not torch.allclose(each[0], each[1])
    assert leaning.sum() > 0
    torch.testing.assert_close(quarters[1] - each[1], 4 * leaning)
    torch.testing.assert_close(quarters[2], each[2])


def test_light_on_slopes_is_the_worlds_and_follows_the_sun() -> None:
    north_slope = 0.3 * 30.0 * np.arange(64, dtype=np.float32)[:, None] + np.zeros((64, 64), np.float32)
    physical = {
        "DEM_DEM": np.stack([north_slope, north_slope, np.zeros_like(north_slope)])[:, None] + 500.0,
        "3d_cartesian_lat_lon": np.array([[45.0, 10.0], [-45.0, 10.0], [45.0, 10.0]]),
        "mean_timestamps": np.array([[2020, 12, 21], [2020, 6, 21], [2020, 12, 21]]),
    }
    light = light_on_slopes({key: to_model(key, values) for key, values in physical.items()})
    assert light.shape == (3, 24, 24) and light.dtype == np.float16
    inside = light[:, 4:-4, 4:-4].astype(np.float64)
    # Heights rise southward: the ground looks north, away from the winter sun of the north and to that of the south.
    sun = sun_on(45.0, date(2020, 12, 21))
    wanted = np.log(illumination(np.zeros((1, 1)), np.full((1, 1), -0.3), sun).mean())
    np.testing.assert_allclose(inside[0], wanted, atol=0.02)
    assert wanted < -0.2 and inside[1].min() > 0.2
    np.testing.assert_allclose(inside[2], 0.0, atol=1e-3)


def test_the_light_of_a_token_is_asked_where_place_elevation_and_date_are_given() -> None:
    network = untrained().train()
    head = LightHead(network)
    noisy = torch.randn(2, JOINT_SIZE, generator=torch.Generator().manual_seed(0))
    times = torch.full((2, 12), 500)
    times[0, [KEYS.index(key) for key in LIGHT_KEYS]] = 1
    light = torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(1))
    # An untrained head tells nothing: what is left is the light itself, by its means over a quarter of a token.
    fine = light[0].reshape(12, 2, 12, 2).mean(dim=(1, 3)) / 0.25
    coarse = light[0].reshape(4, 6, 4, 6).mean(dim=(1, 3)) / 0.25
    keys = [m.key for m in MODALITIES if m.kind == "reflectance"]
    squares = [(coarse if get(key).latent_shape[1] == 4 else fine).square() for key in keys]
    network.forward_joint(noisy, times.float())
    whole = head.error(light, times)
    torch.testing.assert_close(whole, torch.stack([s.mean() for s in squares]).mean() / 2)
    weights = torch.ones(2, 12)
    for quadrant, rows, columns in ((1, 0, 1), (2, 1, 0)):
        quadrants = torch.tensor([quadrant, 0])
        quadrant_losses(network, noisy, times.float(), noisy, quadrants, weights)
        quarters = [s.reshape(2, len(s) // 2, 2, -1)[rows, :, columns] for s in squares]
        torch.testing.assert_close(
            head.error(light, times, quadrants), torch.stack([s.mean() for s in quarters]).mean() / 2
        )


def test_light_moves_latents_along_what_they_follow() -> None:
    rng = np.random.default_rng(0)
    light = rng.normal(0, 0.3, (6, 24, 24)).astype(np.float16)
    light[5] = 0.1
    key, factors = "S2L2A_B02_B03_B04_B08", np.arange(-3.0, 5.0, dtype=np.float32)
    means = rng.normal(0, 0.01, (6, JOINT_SIZE)).astype(np.float32)
    means[:, JOINT_SLICES[key]] += (factors[:, None, None] * light.astype(np.float32)[:, None]).reshape(6, -1)
    times = torch.full((6, 12), 1)
    times[4, KEYS.index("mean_timestamps")] = 500
    shone = torch.from_numpy(light).float()
    on_latents = LightOnLatents(means, light)
    whole = on_latents.directions(shone, times)
    found = whole[:, JOINT_SLICES[key]].reshape(6, 8, 24, 24)
    shape = torch.from_numpy(factors)[:, None, None] * (shone[0] - shone[0].mean())
    torch.testing.assert_close(found[0], shape / shape.norm() * found[0].norm(), rtol=0.01, atol=2e-4)
    assert 0.9 < found[0].norm() < 1 and found[4:].abs().max() < 1e-6
    for m in MODALITIES:
        assert whole[0, JOINT_SLICES[m.key]].any() == (m.kind == "reflectance")
    quarter = on_latents.directions(shone, times, torch.tensor([1, 2, 0, 3, 0, 0]))[:, JOINT_SLICES[key]]
    lower = quarter.reshape(6, 8, 24, 24)[1]
    assert not lower[:, :12].any() and not lower[:, :, 12:].any() and 0.9 < lower.norm() < 1
    torch.testing.assert_close(lower.sum(), torch.zeros(()), atol=1e-4, rtol=0)
    # Where all ground is level, errors count as ever.
    assert not LightOnLatents(means, np.zeros_like(light)).directions(shone, times).any()


def test_a_network_in_training_learns_the_light_if_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, deviation = latents(2)
    light = np.abs(shone(2))
    errors: list[float] = []
    ask = LightHead.error

    def error(head: LightHead, *given: torch.Tensor) -> torch.Tensor:
        found = ask(head, *given)
        errors.append(float(found.detach()))
        return found

    monkeypatch.setattr(LightHead, "error", error)
    networks = []
    for weight in (1.0, 0.0):
        recipe = NetworkRecipe(60, batch=8, ground_warm_up=5, late_share=1.0, learning_rate=3e-3, light_weight=weight)
        training = NetworkTraining(untrained(replace(TINY, width=64)), recipe, seed=0, compute=CPU)
        networks.append(training.run(mean, deviation, light, quiet))
    asked, ignored = np.mean(errors[50:60]) / np.mean(errors[:3]), np.mean(errors[110:]) / np.mean(errors[60:63])
    assert asked < 0.5 < 0.8 < ignored
    # What is asked of the head changes the network, and the head stays out of it.
    assert networks[0].state_dict().keys() == untrained().state_dict().keys()
    assert not torch.equal(*(network.mid_block.mlp.fc2.weight for network in networks))


@pytest.mark.parametrize("whole_share", [0.0, 1.0])
def test_in_training_errors_along_the_light_count_more(whole_share: float) -> None:
    mean, deviation = latents(2)
    found: list[dict[str, float]] = []
    for gain in (0.0, 16.0):
        recipe = NetworkRecipe(1, batch=8, late_share=1.0, whole_share=whole_share, light_gain=gain)
        training = NetworkTraining(untrained(), recipe, seed=0, compute=CPU)
        training.run(mean, deviation, np.abs(shone(2)), lambda step, losses, average: found.append(losses))
    plain, leaning = found
    for m in MODALITIES:
        if m.kind == "reflectance":
            assert leaning[m.key] > plain[m.key]
        else:
            assert leaning[m.key] == plain[m.key]


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    mean, deviation = latents(4)
    # Stopped just before the part that has most of the ground given.
    recipe = NetworkRecipe(6, batch=2, whole_batch=1, warm_up=2, late_share=0.5)

    def state(training: NetworkTraining) -> dict[str, torch.Tensor]:
        return training.run(mean, deviation, shone(4), quiet).state_dict()

    whole = state(NetworkTraining(untrained(), recipe, seed=3, compute=CPU))

    class StopError(Exception):
        pass

    first = NetworkTraining(untrained(), recipe, seed=3, compute=CPU)

    def stop(step: int, losses: dict[str, float], average: CopgenNetwork) -> None:
        assert tuple(losses) == KEYS
        if step == 3:
            first.save(tmp_path / "network.pt")
            raise StopError

    with pytest.raises(StopError):
        first.run(mean, deviation, shone(4), stop)
    second = NetworkTraining(untrained(), recipe, seed=3, compute=CPU)
    second.resume(tmp_path / "network.pt")
    assert second.step == 3
    for name, value in state(second).items():
        assert torch.equal(value, whole[name]), name
    assert second.step == 6 and recipe.first_ground_step == 3
    other = state(NetworkTraining(untrained(), recipe, seed=4, compute=CPU))
    assert not torch.equal(other["norm.weight"], whole["norm.weight"])


@pytest.mark.parametrize("late_share", [0.0, 1.0])
def test_the_network_learns_to_tell_the_noise(late_share: float) -> None:
    mean, deviation = latents(2)
    totals: list[float] = []

    def report(step: int, losses: dict[str, float], average: CopgenNetwork) -> None:
        totals.append(sum(losses.values()))

    recipe = NetworkRecipe(60, batch=4, warm_up=5, ground_warm_up=5, late_share=late_share, learning_rate=3e-3)
    NetworkTraining(untrained(replace(TINY, width=64)), recipe, seed=0, compute=CPU).run(
        mean, deviation, shone(2), report
    )
    assert np.mean(totals[-10:]) < 0.85 * np.mean(totals[:3])


def test_an_autoencoder_learns_and_starts_from_its_seed(patches: dict[str, np.ndarray]) -> None:
    key = "S2L2A_B01_B09"
    assert torch.equal(new_autoencoder(key, 0).quant_conv.weight, new_autoencoder(key, 0).quant_conv.weight)
    assert not torch.equal(new_autoencoder(key, 0).quant_conv.weight, new_autoencoder(key, 1).quant_conv.weight)
    losses: list[float] = []
    recipe = AutoencoderRecipe(60, batch=4, crop=32, warm_up=5, learning_rate=3e-3)
    model = train_autoencoder(
        key,
        new_autoencoder(key, 0),
        patches,
        recipe,
        seed=0,
        compute=CPU,
        report=lambda step, loss: losses.append(loss),
    )
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_relief_is_slopes_and_height_of_the_ground() -> None:
    east, south = 30.0 * np.arange(64)[None, :], 30.0 * np.arange(64)[:, None]
    planes = [2000 + 0.2 * east - 0.05 * south, 40 + 0.0 * east + 0.0 * south]
    found = relief(get("DEM_DEM"), torch.from_numpy(to_model("DEM_DEM", np.stack(planes)[:, None]))).numpy()
    assert found.shape == (2, 3, 8, 8)
    inside = found[0, :, 1:-1, 1:-1]
    np.testing.assert_allclose(inside[0], 2.0, rtol=1e-3)
    np.testing.assert_allclose(inside[1], 0.5, rtol=4e-3)
    np.testing.assert_allclose(found[0, 2], planes[0].reshape(8, 8, 8, 8).mean((1, 3)) / 500, rtol=1e-5)
    np.testing.assert_allclose(found[1], np.broadcast_to([[[0]], [[0]], [[0.08]]], (3, 8, 8)), atol=1e-5)


def test_the_latent_of_elevation_learns_to_tell_relief(patches: dict[str, np.ndarray]) -> None:
    model = new_autoencoder("DEM_DEM", 0)
    images = to_tensor("DEM_DEM", patches["DEM_DEM"])
    wanted = relief(get("DEM_DEM"), images)

    def missing() -> float:
        with torch.inference_mode():
            found = model.encode_moments(images)[:, :3]
        return float((found - wanted).square().mean() / wanted.square().mean())

    before = missing()
    train_autoencoder(
        "DEM_DEM", model, patches, AutoencoderRecipe(60, warm_up=5), seed=0, compute=CPU, report=lambda *_: None
    )
    assert missing() < 0.7 < before


def test_encoding_gives_the_posterior_and_scalars_as_they_are(patches: dict[str, np.ndarray]) -> None:
    key = "S2L2A_B01_B09"
    models = {key: new_autoencoder(key, 0).eval() for key in IMAGE_KEYS}
    with torch.no_grad():
        models[key].quant_conv.weight.zero_()
        models[key].quant_conv.bias[:8] = 2.0
    mean, deviation = encode(models, {key: rows[:1] for key, rows in patches.items()}, CPU)
    assert mean.dtype == deviation.dtype == np.float16 and mean.shape == deviation.shape == (1, JOINT_SIZE)
    np.testing.assert_allclose(mean[:, JOINT_SLICES[key]], 2.0)
    np.testing.assert_allclose(deviation[:, JOINT_SLICES[key]], np.exp(-3.0), rtol=1e-3)
    scalars = mean[:, JOINT_SLICES["mean_timestamps"]].astype(np.float32)
    np.testing.assert_allclose(scalars, patches["mean_timestamps"][:1].reshape(1, 3), atol=1e-3)
    assert not deviation[:, JOINT_SLICES["mean_timestamps"]].any()


def test_centred_latents_decode_to_the_same(patches: dict[str, np.ndarray]) -> None:
    key = "S2L2A_B01_B09"
    model = new_autoencoder(key, 0).eval().requires_grad_(False)
    image = to_tensor(key, patches[key])
    before = model.sample_latent(model.encode_moments(image))
    decoded = model.decode(before)
    moved = small._centre(model, before.flatten(1).numpy())
    after = model.sample_latent(model.encode_moments(image))
    assert after.mean(dim=(0, 2, 3)).abs().max() < 1e-5 < before.mean(dim=(0, 2, 3)).abs().max()
    np.testing.assert_allclose(before.flatten(1).numpy() - moved, after.flatten(1).numpy(), atol=1e-5)
    torch.testing.assert_close(model.decode(after), decoded, atol=1e-5, rtol=1e-5)


def test_scaled_latents_have_one_standard_deviation() -> None:
    mean, deviation = latents(20)
    mean[:, JOINT_SLICES["DEM_DEM"]] *= 5
    scales = small._scale_factors(mean, deviation)
    for key in IMAGE_KEYS:
        drawn = (
            mean[:, JOINT_SLICES[key]] + deviation[:, JOINT_SLICES[key]] * latents(20, seed=1)[0][:, JOINT_SLICES[key]]
        )
        assert (scales[key] * drawn).std() == pytest.approx(LATENT_STD, rel=0.02)


def test_sampling_holds_what_is_given_and_draws_the_rest() -> None:
    clean, _ = latents(2)
    network = untrained().eval()
    found = sample_latents(network, clean, ("DEM_DEM",), steps=3, seed=0, compute=CPU)
    np.testing.assert_array_equal(found[:, JOINT_SLICES["DEM_DEM"]], clean[:, JOINT_SLICES["DEM_DEM"]])
    assert np.isfinite(found).all()
    again = sample_latents(network, clean, ("DEM_DEM",), steps=3, seed=1, compute=CPU)
    assert not np.allclose(found[:, JOINT_SLICES["LULC_LULC"]], again[:, JOINT_SLICES["LULC_LULC"]])


RECIPE = Recipe(
    TINY,
    autoencoder_patches=2,
    patches=4,
    winter_patches=2,
    autoencoders={key: AutoencoderRecipe(2, batch=1, crop=32, warm_up=1) for key in IMAGE_KEYS},
    network=NetworkRecipe(4, batch=2, whole_batch=1, warm_up=1),
    held_out=2,
)


@pytest.mark.slow
def test_a_training_is_resumed_and_ends_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "training"
    monkeypatch.setattr(small, "_SAVE_EVERY", 2)
    monkeypatch.setattr(small, "_PICTURES", 1)

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("network") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_small(out, RECIPE, device="cpu", progress=stop)
    assert not (out / "model").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in (out / "work").glob("autoencoder_*")}
    assert len(finished) == 10
    steps: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("network"):
            steps.append(done)

    with pytest.raises(RequestError, match="another recipe"):
        train_small(out, replace(RECIPE, seed=1), device="cpu")
    model = train_small(out, RECIPE, device="cpu", progress=watch)
    assert steps == [3, 4]
    assert finished == {path.name: path.stat().st_mtime_ns for path in (out / "work").glob("autoencoder_*")}
    checkpoint = load_checkpoint(model)
    assert checkpoint.network.config == TINY and not checkpoint.missing
    config = json.loads((model / "config.json").read_text())
    assert config["weights"] == "small-world"
    for key, scale in config["scale_factors"].items():
        assert checkpoint.autoencoders[key].config.scale_factor == scale
        assert checkpoint.autoencoders[key].config.groups == 4
    state = load_file(next(model.rglob("nnet_ema.safetensors")))
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert "Not for science" in (model / "MODEL_CARD.md").read_text()
    assert list((out / "work/pictures").glob("*.png"))
    with pytest.raises(RequestError, match="training is done"):
        train_small(out, RECIPE, device="cpu")
    whole = train_small(tmp_path / "whole", RECIPE, device="cpu")
    again = load_file(next(whole.rglob("nnet_ema.safetensors")))
    for name, value in state.items():
        assert torch.equal(value, again[name]), name


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="no training"):
        train_small(tmp_path, RECIPE, device="cpu")
    assert (tmp_path / "work/notes.txt").read_text() == "mine"


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match="no CUDA device"):
        Compute.choose("cuda")
    assert Compute.choose("auto").device.type == "cpu"
    with pytest.raises(RequestError, match="expected one of"):
        Compute.choose("tpu")
