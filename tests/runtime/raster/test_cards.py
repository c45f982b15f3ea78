import numpy as np
import pytest
from copgen_edge.runtime.raster.cards import circular_std_days, date_card, place_card, rms_distance_km
from PIL import Image


def dot(card: Image.Image) -> tuple[float, float]:
    """Middle (x, y) of the red pixels, as shares of the card's side."""
    pixels = np.asarray(card).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 180) & (pixels[..., 1] < 110))
    return columns.mean() / card.width, rows.mean() / card.height


@pytest.mark.parametrize(
    ("lat", "lon", "x", "y"), [(0.0, 0.0, 0.5, 0.25), (45.0, 90.0, 0.75, 0.125), (-45.0, -90.0, 0.25, 0.375)]
)
def test_a_place_is_a_dot_on_the_map(lat: float, lon: float, x: float, y: float) -> None:
    card = place_card(np.array([[lat, lon]]), 192)
    assert card.size == (192, 192)
    assert dot(card) == pytest.approx((x, y), abs=0.01)


def test_a_date_is_a_dot_on_the_ring_of_the_year() -> None:
    spring, _ = dot(date_card(np.array([[2021, 4, 1]]), 192))
    autumn, _ = dot(date_card(np.array([[2021, 10, 1]]), 192))
    _, summer = dot(date_card(np.array([[2020, 7, 1]]), 192))
    assert (spring, autumn, summer) == pytest.approx((0.69, 0.31, 0.44), abs=0.01)


def test_places_are_told_apart() -> None:
    one, other = np.array([[47.0, 11.0]]), np.array([[-12.0, 130.0]])
    assert place_card(one, 192).tobytes() != place_card(other, 192).tobytes()
    assert place_card(np.concatenate([one, other]), 192).tobytes() != place_card(one, 192).tobytes()


def test_distance_is_on_the_great_circle_and_across_the_date_line() -> None:
    assert rms_distance_km(np.array([[0.0, -1.0], [0.0, 1.0]])) == pytest.approx(np.radians(1.0) * 6371.0)
    assert rms_distance_km(np.array([[0.0, 179.0], [0.0, -179.0]])) == pytest.approx(np.radians(1.0) * 6371.0)
    assert rms_distance_km(np.array([[89.0, 0.0], [89.0, 180.0]])) == pytest.approx(np.radians(1.0) * 6371.0)
    assert rms_distance_km(np.array([[12.0, 34.0]] * 3)) == pytest.approx(0.0, abs=1e-6)


def test_days_are_close_across_the_new_year() -> None:
    across = circular_std_days(np.array([363.0, 2.0]) / 365.0)
    within = circular_std_days(np.array([100.0, 104.0]) / 365.0)
    assert across == pytest.approx(within)
    assert within == pytest.approx(2.0, rel=0.01)
