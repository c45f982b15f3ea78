"""The benchmark on spectral vectors: few points on a line, by hand, and many whose law is known."""

from __future__ import annotations

from math import exp, isnan

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.spectra import (
    intra_set_distance,
    mmd2,
    nn_accuracy,
    precision_recall,
    range_coverage,
    spectral_bands,
    spectral_benchmark,
    spectral_vectors,
    wasserstein,
)
from copgen_edge.runtime.modalities import FAMILIES, get

pytest.importorskip("scipy", reason="distances between spectral vectors need scipy, of the extra evaluate")

L2A = FAMILIES["S2L2A"]


def line(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def clouds(seed: int, *means: float, count: int = 200) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, 1, size=(count, 3)) for mean in means]


def test_vectors_hold_the_mean_of_every_band() -> None:
    images = {}
    for start, key in enumerate(reversed(L2A)):
        bands = len(get(key).bands)
        # Band i of row r is 100 (start + 1) + 10 r + i, with a checkerboard of 5 that averages out.
        level = 100 * (start + 1) + 10 * np.arange(2)[:, None] + np.arange(bands)
        images[key] = level[:, :, None, None] + np.array([[5, -5], [-5, 5]])
    names = spectral_bands("S2L2A")
    vectors = spectral_vectors(images)
    assert vectors.shape == (2, 12)
    assert names[:6] == ("S2L2A_B01", "S2L2A_B09", "S2L2A_B04", "S2L2A_B03", "S2L2A_B02", "S2L2A_B08")
    assert names == spectral_bands(tuple(reversed(L2A)))
    np.testing.assert_allclose(vectors[0], [300, 301, 200, 201, 202, 203, 100, 101, 102, 103, 104, 105])
    np.testing.assert_allclose(vectors[1], vectors[0] + 10)


def test_vectors_average_valid_pixels_only() -> None:
    key = "S2L2A_B01_B09"
    image = np.array([[[[1.0, 3.0, np.nan]], [[10.0, 30.0, 50.0]]]])
    mask = np.array([True, True, False])[None, None, None]
    np.testing.assert_allclose(spectral_vectors({key: image}, {key: mask}), [[2, 20]])


def test_radar_is_averaged_in_decibels() -> None:
    image = np.array([[[[1.0, 100.0]], [[10.0, 10.0]]]])
    np.testing.assert_allclose(spectral_vectors({"S1RTC_vh_vv": image}), [[10, 10]])


def test_wrong_images() -> None:
    key, other = L2A[:2]
    image = np.ones((1, 2, 2, 2))
    with pytest.raises(RequestError, match="found no valid pixel in row 0, B09"):
        spectral_vectors({key: image}, {key: np.array([True, False])[None, :, None, None]})
    with pytest.raises(RequestError, match="expected as many for every key"):
        spectral_vectors({key: image, other: np.ones((2, 4, 2, 2))})
    with pytest.raises(RequestError, match="expected an image for each mask"):
        spectral_vectors({key: image}, {other: np.ones((1, 1, 1, 1), bool)})
    with pytest.raises(RequestError, match="expected an image"):
        spectral_vectors({})
    with pytest.raises(RequestError, match="NaN or infinity"):
        spectral_vectors({key: image * np.nan})
    with pytest.raises(RequestError, match="expected numbers"):
        spectral_vectors({key: image[0]})
    with pytest.raises(RequestError, match="metrics for codes"):
        spectral_vectors({"LULC_LULC": image[:, :1]})


def test_precision_and_recall_by_hand() -> None:
    # Radii to the nearest other: real 0, 1, 10 -> 1, 1, 9; generated 0.5, 3 -> 2.5, 2.5.
    # Generated: 0.5 lies within 1 of 0; 3 within 9 of 10. Real: 0 and 1 within 2.5 of 0.5; 10 is 7 from 3.
    precision, recall = precision_recall(line(0, 1, 10), line(0.5, 3), k=1)
    assert precision == 1.0
    assert recall == pytest.approx(2 / 3)


def test_the_radius_reaches_the_kth_neighbour_and_includes_it() -> None:
    # k = 2: each of -1, 0, 1 has its second neighbour at 2, 1, 2; the union is the closed [-3, 3].
    real = line(-1, 0, 1)
    precision, _ = precision_recall(real, line(-3, 3, 3.001, -3.001), k=2)
    assert precision == 0.5


def test_five_neighbours_unless_told() -> None:
    # 0..5: the ball of 0 reaches 5, its fifth neighbour, down to -5; with k = 4 down to -4.
    real, generated = line(0, 1, 2, 3, 4, 5), line(-4.5, 100, 200, 300, 400, 500)
    assert precision_recall(real, generated)[0] == pytest.approx(1 / 6)
    assert precision_recall(real, generated, k=4)[0] == 0.0


def test_recall_and_precision_of_known_pairs() -> None:
    real, far = clouds(0, 0, 50)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, far) == (0.0, 0.0)
    # A narrow set within the real one: realistic, and covering little.
    precision, recall = precision_recall(real, clouds(1, 0)[0] * 0.1)
    assert precision > 0.95
    assert recall < 0.2


def test_too_few_vectors_for_the_neighbours_say_what_to_do() -> None:
    five = line(1, 2, 3, 4, 5)
    with pytest.raises(
        RequestError, match="expected 6 or more of each for k = 5; draw more samples, or give a k from 1 to 4"
    ):
        precision_recall(line(1, 2, 3, 4, 5, 6), five)
    assert precision_recall(five, five, k=4) == (1.0, 1.0)
    with pytest.raises(RequestError, match="k = 0"):
        precision_recall(five, five, k=0)


def test_nearest_neighbour_accuracy_by_hand() -> None:
    # Real 0 -> 1 right, 1 -> 1.5 wrong, 10 -> 11 right, 11 -> 10 right: 3/4.
    # Generated 1.5 -> 1 wrong, 20 -> 21 right, 21 -> 20 right: 2/3.
    assert nn_accuracy(line(0, 1, 10, 11), line(1.5, 20, 21)) == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_equally_near_neighbours_share_the_vote() -> None:
    # 0 has 1 (real) and -1 (generated) at equal distance: half. 1 -> 0 right, -1 -> 0 wrong, -9 -> -1 right.
    assert nn_accuracy(line(0, 1), line(-1, -9)) == pytest.approx((3 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize("count", [200, 900])
def test_nearest_neighbour_accuracy_of_known_pairs(count: int) -> None:
    real, far = clouds(2, 0, 50)
    assert nn_accuracy(real, clouds(3, 0, count=count)[0]) == pytest.approx(0.5, abs=0.05)
    assert nn_accuracy(real, far) == 1.0
    assert nn_accuracy(real, real) == 0.0


def test_intra_set_distance_by_hand() -> None:
    # A triangle of sides 3, 4 and 5.
    assert intra_set_distance([[0, 0], [3, 0], [0, 4]]) == pytest.approx(4)


def test_mmd_by_hand() -> None:
    # Pooled distances of 0, 2, 1, 3: 2, 1, 3, 1, 1, 2; their median 1.5, so sigma 0.75 and 2 sigma^2 = 1.125.
    # Within each set one pair at 2; between the sets 1, 3, 1, 1.
    between = (3 * exp(-1 / 1.125) + exp(-9 / 1.125)) / 4
    assert mmd2(line(0, 2), line(1, 3)) == pytest.approx(2 * exp(-4 / 1.125) - 2 * between)


def test_mmd_of_known_pairs() -> None:
    same = [mmd2(*clouds(seed, 0, 0, count=60)) for seed in range(40)]
    # Unbiased: the mean over many draws is 0, and single ones fall on both sides.
    assert np.mean(same) == pytest.approx(0, abs=0.003)
    assert min(same) < 0 < max(same)
    near, far = (mmd2(*clouds(5, 0, mean)) for mean in (0.5, 3))
    assert max(same) < near < far
    assert isnan(mmd2(line(1, 1, 1), line(1, 1)))


def test_wasserstein_by_hand() -> None:
    # First band: all mass moves by 5. Second: half of it moves by 2.
    found = wasserstein([[0, 0], [1, 0]], [[5, 0], [6, 2]])
    np.testing.assert_allclose(found, [5, 1])
    # Unequal sizes: half the mass of {0, 1} moves to 0.
    np.testing.assert_allclose(wasserstein(line(0, 1), line(0)), [0.5])


def test_range_coverage_by_hand() -> None:
    real = np.array([[0.0, 0, 0, 0, 5], [10, 10, 10, 10, 5]])
    generated = np.array([[5.0, -5, 12, 2, 4], [20, 15, 13, 5, 6]])
    # Half of it; all of it; none; three tenths; no range to cover.
    np.testing.assert_allclose(range_coverage(real, generated), [0.5, 1, 0, 0.3, np.nan])


def test_the_whole_benchmark_is_its_parts() -> None:
    real, generated = clouds(6, 0, 0.3, count=30)
    real[:, 2] = 1
    found = spectral_benchmark(real, generated)
    assert (found.precision, found.recall) == precision_recall(real, generated)
    assert found.nn_accuracy == nn_accuracy(real, generated)
    assert (found.intra_real, found.intra_generated) == (intra_set_distance(real), intra_set_distance(generated))
    assert found.mmd2 == mmd2(real, generated)
    np.testing.assert_allclose(found.wasserstein, wasserstein(real, generated))
    assert isnan(found.range_coverage[2])
    assert found.mean_range_coverage == pytest.approx(sum(found.range_coverage[:2]) / 2)
    assert isnan(spectral_benchmark(np.ones((6, 1)), np.arange(6)[:, None]).mean_range_coverage)


@pytest.mark.parametrize(
    "metric", [precision_recall, nn_accuracy, mmd2, wasserstein, range_coverage, spectral_benchmark]
)
@pytest.mark.parametrize(
    ("real", "generated"),
    [
        (np.zeros((9, 3)), np.zeros((9, 2))),
        (np.zeros(9), np.zeros(9)),
        (np.zeros((9, 3)), np.zeros((0, 3))),
        (np.full((9, 3), np.nan), np.zeros((9, 3))),
    ],
)
def test_wrong_sets(metric: object, real: np.ndarray, generated: np.ndarray) -> None:
    assert callable(metric)
    with pytest.raises(RequestError, match="spectra: found"):
        metric(real, generated)


def test_sets_of_one_have_no_pairs() -> None:
    for metric in (nn_accuracy, mmd2):
        with pytest.raises(RequestError, match="expected 2 or more in each set"):
            metric(line(1), line(1, 2))
    with pytest.raises(RequestError, match="expected 2 or more in each set"):
        intra_set_distance(line(1))
