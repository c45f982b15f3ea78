"""Noise is a function of what it is for: the same anywhere, and different for anything else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, KEYS, get
from copgen_edge.runtime.noise import PURPOSES, latent_noise, normal
from numpy.typing import NDArray

# Computed once and typed in. Integers are exact everywhere; sines and logarithms may differ in the last digit.
PINNED = (
    (
        {"seed": 0, "purpose": "initial", "key": "DEM_DEM", "sample": 0, "cell": (0, 0)},
        (-1.8219438791, -0.4634790719, -0.2156044394, 0.1939174384, -1.6026402712),
    ),
    (
        {"seed": 2**64 - 1, "purpose": "absent", "key": "mean_timestamps", "sample": 3, "cell": (-1, 7)},
        (0.6029024720, 1.3996992111, 1.3844240904, -0.1562908441, -0.1630857587),
    ),
    (
        {"seed": 42, "purpose": "posterior", "key": "S1RTC_vh_vv", "sample": 1, "cell": (2, -3)},
        (1.0422067642, 0.2484282255, 1.3434053659, 0.3395129740, 1.2604411840),
    ),
)


def draw(
    seed: int = 5,
    purpose: str = "initial",
    key: str = "DEM_DEM",
    sample: int = 2,
    cell: tuple[int, int] = (3, 4),
    shape: tuple[int, ...] = (64,),
) -> NDArray[np.float32]:
    return normal(shape, seed=seed, purpose=purpose, key=key, sample=sample, cell=cell)


@pytest.mark.parametrize(("arguments", "expected"), PINNED)
def test_the_first_values_are_these_on_every_machine(arguments: dict[str, object], expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(normal((5,), **arguments), expected, rtol=1e-6)  # type: ignore[arg-type]


def test_the_bits_are_philox_4x64_10_of_the_counter_and_the_key() -> None:
    """Philox written out from the paper (Salmon et al., 2011), so that another generator under the name is noticed."""
    word = 2**64

    def philox(counter: list[int], key: list[int]) -> list[int]:
        for _ in range(10):
            low, high = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [high // word ^ counter[1] ^ key[0], high % word, low // word ^ counter[3] ^ key[1], low % word]
            key = [(key[0] + 0x9E3779B97F4A7C15) % word, (key[1] + 0xBB67AE8584CAA73B) % word]
        return counter

    purpose, modality = PURPOSES.index("absent"), KEYS.index("LULC_LULC")
    # NumPy counts up before the first block, so it begins at 1.
    bits = philox([1, 7, 3, word - 2], [99, purpose * 12 + modality])
    uniform = [(value >> 11) / 2**53 for value in bits]
    radius, angle = np.sqrt(-2 * np.log1p(-np.array(uniform[:2]))), 2 * np.pi * np.array(uniform[2:])
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    found = draw(seed=99, purpose="absent", key="LULC_LULC", sample=7, cell=(3, -2), shape=(4,))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_part_of_the_address_makes_another_draw() -> None:
    others = [
        draw(),
        *(draw(seed=seed) for seed in (0, 6, 2**63, 2**64 - 1)),
        *(draw(purpose=purpose) for purpose in PURPOSES if purpose != "initial"),
        *(draw(key=key) for key in KEYS if key != "DEM_DEM"),
        *(draw(sample=sample) for sample in (0, 1, 3, 2**40)),
        *(draw(cell=cell) for cell in ((4, 3), (3, -4), (-3, 4), (-3, -4), (0, 0), (2**40, 4))),
    ]
    for one, other in itertools.combinations(others, 2):
        assert not np.isclose(one, other).any() or np.isclose(one, other).mean() < 0.05
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.6
    np.testing.assert_array_equal(draw(), draw())


def test_no_order_of_asking_changes_anything() -> None:
    once = latent_noise("LULC_LULC", 5, seed=3, purpose="initial")
    for sample in (4, 1, 0, 3, 2):
        alone = latent_noise("LULC_LULC", 1, seed=3, purpose="initial", first=sample)
        np.testing.assert_array_equal(alone[0], once[sample])
    later = latent_noise("LULC_LULC", 2, seed=3, purpose="initial", first=3)
    np.testing.assert_array_equal(later, once[3:])


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("shift", [(1, 0), (0, 2), (3, 3), (-1, 2), (-3, -3)])
def test_windows_that_overlap_share_the_noise_of_their_common_ground(key: str, shift: tuple[int, int]) -> None:
    side = get(key).cell_latent
    here = latent_noise(key, 2, seed=8, purpose="initial", cell=(-1, 5))
    there = latent_noise(key, 2, seed=8, purpose="initial", cell=(-1 + shift[0], 5 + shift[1]))
    down, right = (n * side for n in shift)
    size = get(key).latent_shape[1]
    mine = here[..., max(down, 0) : size + min(down, 0), max(right, 0) : size + min(right, 0)]
    theirs = there[..., max(-down, 0) : size + min(-down, 0), max(-right, 0) : size + min(-right, 0)]
    assert mine.shape[2] == (4 - abs(shift[0])) * side
    np.testing.assert_array_equal(mine, theirs)
    assert not np.isclose(here, there).all()


def test_windows_that_do_not_touch_share_nothing() -> None:
    here = latent_noise("S1RTC_vh_vv", 1, seed=8, purpose="initial", cell=(0, 0))
    there = latent_noise("S1RTC_vh_vv", 1, seed=8, purpose="initial", cell=(0, 4))
    assert abs(np.corrcoef(here.ravel(), there.ravel())[0, 1]) < 0.06
    assert (here == there).mean() < 0.01


def test_the_cells_of_a_window_are_those_of_the_scene() -> None:
    side = get("S2L2A_B02_B03_B04_B08").cell_latent
    window = latent_noise("S2L2A_B02_B03_B04_B08", 1, seed=1, purpose="absent", cell=(10, 20))[0]
    for row, column in itertools.product(range(4), range(4)):
        cell = normal(
            (8, side, side),
            seed=1,
            purpose="absent",
            key="S2L2A_B02_B03_B04_B08",
            sample=0,
            cell=(10 + row, 20 + column),
        )
        found = window[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        np.testing.assert_array_equal(found, cell)


@pytest.mark.parametrize("key", ["3d_cartesian_lat_lon", "mean_timestamps"])
def test_a_scalar_has_one_draw_a_window(key: str) -> None:
    found = latent_noise(key, 3, seed=1, purpose="initial", cell=(2, 2))
    assert found.shape == (3, 1, 1, 3)
    assert not np.isclose(found[0], found[1]).any()
    assert not np.isclose(found, latent_noise(key, 3, seed=1, purpose="initial", cell=(2, 3))).any()


def test_draws_are_standard_normal() -> None:
    values = draw(shape=(1_000_000,)).astype(np.float64)
    # Five standard errors each.
    assert abs(values.mean()) < 5e-3
    assert abs(values.std() - 1) < 5 * 0.5**0.5 * 1e-3
    assert abs((values**3).mean()) < 5 * 15**0.5 * 1e-3
    assert abs((values**4).mean() - 3) < 5 * 96**0.5 * 1e-3
    for sigmas, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        assert abs((np.abs(values) < sigmas).mean() - share) < 2.5e-3
    assert np.isfinite(values).all()
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5e-3
    assert abs(np.corrcoef(values[: len(values) // 2], values[len(values) // 2 :])[0, 1]) < 8e-3


def test_samples_and_modalities_are_independent() -> None:
    draws = [
        latent_noise(key, 1, seed=0, purpose="initial", first=sample).ravel()[:1152]
        for key in ("LULC_LULC", "S1RTC_vh_vv", "S2L2A_B02_B03_B04_B08")
        for sample in range(4)
    ]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / 1152**0.5


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (8, 1, 1), ()])
def test_any_shape_is_filled(shape: tuple[int, ...]) -> None:
    found = draw(shape=shape)
    assert found.shape == shape
    assert found.dtype == np.float32


def test_numpys_integers_are_integers() -> None:
    cell = (np.int64(-3), np.int64(4))
    found = normal((6,), seed=np.uint64(5), purpose="initial", key="DEM_DEM", sample=np.int64(2), cell=cell)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, draw(cell=(-3, 4), shape=(6,)))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "7", None])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(RequestError, match=r"expected a whole number from 0 to 2\^64 - 1") as caught:
        latent_noise("DEM_DEM", 1, seed=seed, purpose="initial")  # type: ignore[arg-type]
    assert repr(seed) in str(caught.value)
