"""Smooth weights of overlapping windows."""

import numpy as np
import pytest
from copgen_edge.runtime.scene.blend import add, sides, weights
from copgen_edge.runtime.scene.grid import starts


@pytest.mark.parametrize("stride", [4, 3, 2])
@pytest.mark.parametrize("cells", [4, 5, 7, 11])
@pytest.mark.parametrize("step", [1, 2, 3, 6, 48])
def test_weights_of_a_place_add_up_to_one(stride: int, cells: int, step: int) -> None:
    along = starts(cells, stride)
    total = np.zeros(cells * step)
    for start, part in zip(along, weights(along, step), strict=True):
        assert (part > 0).all()
        total[start * step : start * step + len(part)] += part
    np.testing.assert_allclose(total, 1, atol=2e-7)


def test_a_window_alone_has_the_weight_one_exactly() -> None:
    (only,) = weights((0,), 6)
    assert (only == 1).all()
    first, second = weights((0, 3), 6)
    assert (first[: 3 * 6] == 1).all()
    assert (second[6:] == 1).all()
    assert (np.diff(first[3 * 6 :]) < 0).all()


def test_windows_that_agree_blend_to_what_they_agree_on() -> None:
    whole = np.random.default_rng(0).standard_normal((2, 14 * 3, 10 * 3)).astype(np.float32)
    windows = [(row, column) for row in starts(14, 3) for column in starts(10, 3)]
    field = np.zeros_like(whole)
    for row, column in windows:
        part = whole[:, row * 3 : row * 3 + 12, column * 3 : column * 3 + 12]
        add(field, part, (row, column), sides(windows))
    np.testing.assert_allclose(field, whole, atol=1e-6)
