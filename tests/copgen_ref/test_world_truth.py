"""The made-up world as the truth of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from copgen_edge.copgen_ref.training.data import training_seeds
from copgen_edge.copgen_ref.world import draw
from copgen_edge.copgen_ref.world_truth import HELD_OUT, world_truth
from copgen_edge.runtime.modalities import KEYS

PLACE, DATE, DEM, LULC, L1C = (
    "3d_cartesian_lat_lon", "mean_timestamps", "DEM_DEM", "LULC_LULC", "S2L1C_B01_B09_B10",
)  # fmt: skip


def test_patches_are_those_of_the_held_out_seeds() -> None:
    truth = world_truth(2, (DEM,))
    assert truth.names == (f"world {HELD_OUT}", f"world {HELD_OUT + 1}") and truth.draws is None
    assert set(truth.physical) == set(KEYS)
    for row in range(2):
        for key, values in draw(HELD_OUT + row).items():
            np.testing.assert_array_equal(truth.physical[key][row : row + 1], values, err_msg=key)


def test_more_patches_begin_with_the_same() -> None:
    one, other = world_truth(1, ()), world_truth(1, (), first=HELD_OUT + 1)
    assert one.names != other.names
    assert not np.array_equal(one.physical[DEM], other.physical[DEM])
    np.testing.assert_array_equal(world_truth(2, ()).physical[DEM][1:], other.physical[DEM])


def test_redraws_keep_what_is_given_and_move_the_weather() -> None:
    """Place, terrain and cover stay; the date too where it is given, and only then."""
    for given in ((PLACE, DEM, LULC, DATE), (PLACE, DEM, LULC)):
        truth = world_truth(2, given, redraws=3)
        assert truth.draws is not None and set(truth.draws) == set(KEYS) - set(given)
        for key, values in truth.draws.items():
            assert values.shape == (2, 3, *truth.physical[key].shape[1:])
        for row in range(2):
            clouds = [truth.physical[L1C][row], *truth.draws[L1C][row]]
            assert all((a != b).any() for i, a in enumerate(clouds) for b in clouds[:i]), "every draw is another"
        again = draw(HELD_OUT + 1, weather=3, date=None)
        if DATE in given:
            assert not np.array_equal(truth.draws[L1C][1, 2], again[L1C][0])
        else:
            np.testing.assert_array_equal(truth.draws[L1C][1, 2], again[L1C][0])
            assert len(np.unique(truth.draws[DATE].reshape(-1, 3), axis=0)) > 1
    np.testing.assert_array_equal(world_truth(2, (DEM,), redraws=1).draws[LULC][:, 0], truth.physical[LULC])  # type: ignore[index]


@pytest.mark.parametrize("given", [(L1C,), (DEM, "S1RTC_vh_vv"), (PLACE, "S2L1C_cloud_mask")])
def test_what_was_sensed_leaves_no_weather_open(given: tuple[str, ...]) -> None:
    assert world_truth(1, given, redraws=2).draws is None


@pytest.mark.parametrize("run", [0, 1, 399, 400, 12345])
def test_no_training_sees_them(run: int) -> None:
    assert max(training_seeds(run, 1_000_000)) < HELD_OUT
