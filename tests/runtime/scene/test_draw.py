"""Noise of a scene, what the network sees of it, and what it makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from copgen_edge.runtime.modalities import JOINT_SLICES, KEYS, get
from copgen_edge.runtime.noise import latent_noise
from copgen_edge.runtime.scene.draw import DATE, PLACE, Given, Layout, Windows, begin

from .conftest import scene_grid

OUTPUTS = ("DEM_DEM", "S2L2A_B01_B09", DATE)


def layout(width: int = 3840, height: int = 2880, first_cell: tuple[int, int] = (0, 0), overlap: int = 25) -> Layout:
    return Layout(scene_grid(width, height, first_cell), overlap, OUTPUTS)


@pytest.mark.parametrize("key", KEYS)
def test_one_window_has_the_noise_of_a_window(key: str) -> None:
    one = layout(1920, 1920)
    found = one.noise(key, seed=5, sample=2, purpose="initial")
    expected = latent_noise(key, 1, seed=5, purpose="initial", first=2)[0]
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("key", ["DEM_DEM", "S2L2A_B01_B09", PLACE])
def test_every_window_of_a_scene_has_the_noise_of_its_place(key: str) -> None:
    whole = layout(first_cell=(3, -2))
    field = whole.noise(key, seed=1, sample=0, purpose="absent")
    for number, (row, column) in enumerate(whole.windows):
        expected = latent_noise(key, 1, seed=1, purpose="absent", cell=(3 + row, column - 2))
        np.testing.assert_array_equal(whole.part(key, field, number), expected.reshape(-1))


def test_parts_of_a_scene_share_its_noise_and_other_seeds_samples_and_purposes_do_not() -> None:
    whole = layout()
    part = Layout(replace(scene_grid(1920, 1920), left=whole.grid.left + 960, first_cell=(1, 2)), 0, OUTPUTS)
    field = whole.noise("DEM_DEM", seed=1, sample=0, purpose="initial")
    mine = part.noise("DEM_DEM", seed=1, sample=0, purpose="initial")
    np.testing.assert_array_equal(mine, field[:, 2:10, 4:12])
    for other in (
        whole.noise("DEM_DEM", seed=2, sample=0, purpose="initial"),
        whole.noise("DEM_DEM", seed=1, sample=1, purpose="initial"),
        whole.noise("DEM_DEM", seed=1, sample=0, purpose="absent"),
    ):
        assert abs(np.corrcoef(other.ravel(), field.ravel())[0, 1]) < 0.1


def test_the_date_is_one_for_the_scene_and_the_place_follows_the_window() -> None:
    whole = Layout(scene_grid(3840, 1920), 0, (PLACE, DATE))
    assert whole.shape(DATE) == (1, 3)
    assert whole.shape(PLACE) == (2, 3)
    flat = begin(whole, seed=0, sample=0)
    windows = Windows(whole, Given(), seed=0, sample=0)
    latents, _ = windows.rows(flat, 1.0, range(2))
    np.testing.assert_array_equal(latents[0, JOINT_SLICES[DATE]], latents[1, JOINT_SLICES[DATE]])
    assert (latents[0, JOINT_SLICES[PLACE]] != latents[1, JOINT_SLICES[PLACE]]).all()


def test_a_condition_is_given_where_it_is_known_and_absent_elsewhere() -> None:
    whole = layout()
    count = len(whole.windows)
    known = np.arange(count) != 1
    latents = np.full((count, get("LULC_LULC").latent_size), 7, np.float32)
    given = Given({"LULC_LULC": latents}, {"LULC_LULC": known})
    windows = Windows(whole, given, seed=0, sample=0)
    rows, times = windows.rows(begin(whole, seed=0, sample=0), 0.25, range(count))
    column = KEYS.index("LULC_LULC")
    assert times[:, column].tolist() == [1000.0 if number == 1 else 0.0 for number in range(count)]
    assert (rows[known][:, JOINT_SLICES["LULC_LULC"]] == 7).all()
    absent = latent_noise("LULC_LULC", 1, seed=0, purpose="absent", cell=whole.windows[1])
    np.testing.assert_array_equal(rows[1, JOINT_SLICES["LULC_LULC"]], absent.reshape(-1))
    assert (times[:, [KEYS.index(key) for key in OUTPUTS]] == 250).all()
    others = [KEYS.index(key) for key in KEYS if key not in (*OUTPUTS, "LULC_LULC")]
    assert (times[:, others] == 1000).all()


@pytest.mark.parametrize("overlap", [0, 25, 50])
def test_what_windows_see_blends_back_to_the_scene(overlap: int) -> None:
    whole = layout(overlap=overlap)
    flat = begin(whole, seed=3, sample=0)
    windows = Windows(whole, Given(), seed=3, sample=0)
    back = np.zeros_like(flat)
    # In two batches and out of order: a sum knows no order but for rounding.
    for batch in (range(4, len(whole.windows)), range(4)):
        latents, _ = windows.rows(flat, 1.0, batch)
        windows.blend(back, latents, batch)
    np.testing.assert_allclose(back, flat, atol=2e-6)
