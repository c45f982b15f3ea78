"""The lattice of a scene."""

import pytest
from affine import Affine
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.scene.grid import starts

from .conftest import scene_grid


def test_sides_that_are_no_whole_pixels_at_every_resolution_are_refused() -> None:
    with pytest.raises(RequestError, match="1930 x 1920 m, expected sides that are multiples of 60 m"):
        scene_grid(1930, 1920)
    with pytest.raises(RequestError, match="multiples of 60"):
        scene_grid(0, 1920)


@pytest.mark.parametrize("resolution", [10, 20, 30, 60])
def test_transform_and_bounds_are_exact_at_every_resolution(resolution: int) -> None:
    grid = scene_grid(4980, 3600)
    assert grid.transform(resolution) == Affine(resolution, 0, 500_000, 0, -resolution, 5_600_040)
    rows, columns = grid.shape(resolution)
    assert (rows * resolution, columns * resolution) == (3600, 4980)
    assert tuple(grid.bounds) == (500_000, 5_596_440, 504_980, 5_600_040)


@pytest.mark.parametrize(
    ("cells", "stride", "expected"),
    [(4, 3, (0,)), (5, 4, (0, 1)), (8, 4, (0, 4)), (10, 4, (0, 4, 6)), (10, 3, (0, 3, 6)), (9, 2, (0, 2, 4, 5))],
)
def test_windows_cover_the_cells_and_the_last_is_shifted_back(
    cells: int, stride: int, expected: tuple[int, ...]
) -> None:
    assert starts(cells, stride) == expected
    covered = {start + cell for start in expected for cell in range(4)}
    assert covered == set(range(cells))


def test_windows_of_a_scene_are_on_the_ground_where_their_cells_say() -> None:
    grid = scene_grid(4980, 1920)
    assert grid.cells == (4, 11)
    assert grid.windows(25) == ((0, 0), (0, 3), (0, 6), (0, 7))
    last = grid.ground((0, 7))
    assert (last.left, last.top, last.crs) == (500_000 + 7 * 480, 5_600_040, grid.crs)
    assert grid.inside((0, 7), 10) == (192, (4980 - 7 * 480) // 10)
    assert grid.inside((0, 0), 60) == (32, 32)


def test_a_scene_smaller_than_a_window_is_one_window_that_sticks_out() -> None:
    grid = scene_grid(960, 60)
    assert grid.windows(50) == ((0, 0),)
    assert grid.inside((0, 0), 20) == (3, 48)


def test_an_overlap_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="found an overlap of 30 %, expected one of 0, 25, 50"):
        scene_grid(1920, 1920).windows(30)
