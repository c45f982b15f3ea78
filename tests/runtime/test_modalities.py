"""The catalogue against the table of the paper, typed in afresh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import (
    BY_KEY,
    CELL_METRES,
    FAMILIES,
    IMAGE_KEYS,
    JOINT_SIZE,
    JOINT_SLICES,
    KEYS,
    MODALITIES,
    PATCH_METRES,
    get,
    resolve,
)

TABLE = (
    ("3d_cartesian_lat_lon", "x y z", 0, 0, (1, 1, 3), None),
    ("DEM_DEM", "DEM", 64, 30, (8, 8, 8), 0.404247),
    ("LULC_LULC", "LULC", 192, 10, (8, 24, 24), 0.464794),
    ("S1RTC_vh_vv", "vv vh", 192, 10, (8, 24, 24), 0.633804),
    ("S2L1C_B01_B09_B10", "B01 B09 B10", 32, 60, (8, 4, 4), 0.565812),
    ("S2L1C_B02_B03_B04_B08", "B04 B03 B02 B08", 192, 10, (8, 24, 24), 0.772514),
    ("S2L1C_B05_B06_B07_B11_B12_B8A", "B05 B06 B07 B8A B11 B12", 96, 20, (8, 12, 12), 0.765817),
    ("S2L1C_cloud_mask", "cloud_mask", 192, 10, (8, 24, 24), 0.557045),
    ("S2L2A_B01_B09", "B01 B09", 32, 60, (8, 4, 4), 0.571367),
    ("S2L2A_B02_B03_B04_B08", "B04 B03 B02 B08", 192, 10, (8, 24, 24), 0.853416),
    ("S2L2A_B05_B06_B07_B11_B12_B8A", "B05 B06 B07 B8A B11 B12", 96, 20, (8, 12, 12), 0.567267),
    ("mean_timestamps", "sin cos year", 0, 0, (1, 1, 3), None),
)
LULC_CODES = (0, 1, 2, 4, 5, 7, 8, 9, 10, 11)


def test_the_catalogue_is_the_papers_table() -> None:
    found = tuple(
        (m.key, " ".join(m.bands), m.size, m.resolution, m.latent_shape, m.scale_factor if m.is_image else None)
        for m in MODALITIES
    )
    assert found == TABLE


def test_the_order_is_the_sorted_order_of_the_keys() -> None:
    assert list(KEYS) == sorted(KEYS)
    assert tuple(m.key for m in MODALITIES) == KEYS == tuple(BY_KEY)
    assert KEYS[1:-1] == IMAGE_KEYS


def test_the_order_is_that_of_the_recorded_runs(golden: Path) -> None:
    case = json.loads((golden / "case.json").read_text())
    assert list(KEYS) in [value for value in case.values() if isinstance(value, list)]


def test_the_joint_latent_is_covered_once_and_in_order() -> None:
    covered = [i for key in KEYS for i in range(JOINT_SLICES[key].start, JOINT_SLICES[key].stop)]
    assert covered == list(range(JOINT_SIZE))
    assert JOINT_SIZE == 26_118
    assert all(JOINT_SLICES[m.key].stop - JOINT_SLICES[m.key].start == m.latent_size for m in MODALITIES)


def test_every_image_covers_the_patch_and_its_latent_is_eight_times_coarser() -> None:
    for key in IMAGE_KEYS:
        m = get(key)
        assert m.size * m.resolution == PATCH_METRES, key
        assert m.latent_shape == (8, m.size // 8, m.size // 8), key


def test_a_cell_is_a_whole_number_of_latent_pixels_in_every_modality() -> None:
    for key in IMAGE_KEYS:
        m = get(key)
        assert m.cell_latent * PATCH_METRES == m.latent_shape[1] * CELL_METRES, key
        assert m.cell_latent >= 1, key


def test_codes_count_their_classes_and_the_rest_their_bands() -> None:
    assert tuple(get("LULC_LULC").codes) == LULC_CODES
    assert tuple(get("S2L1C_cloud_mask").codes) == (0, 1, 2, 3)
    assert [m.key for m in MODALITIES if m.is_codes] == ["LULC_LULC", "S2L1C_cloud_mask"]
    assert get("LULC_LULC").image_shape == (10, 192, 192)
    assert get("S2L1C_cloud_mask").image_shape == (4, 192, 192)
    assert get("S1RTC_vh_vv").image_shape == (2, 192, 192)


def test_every_modality_is_in_one_family() -> None:
    assert list(FAMILIES) == ["DEM", "LULC", "S1RTC", "S2L1C", "S2L2A", "cloud_mask", "place", "date"]
    assert sorted(key for keys in FAMILIES.values() for key in keys) == list(KEYS)
    assert "S2L1C_cloud_mask" not in FAMILIES["S2L1C"]


def test_names_resolve_in_network_order_without_repeats() -> None:
    assert resolve(["date", "S2L2A", "DEM_DEM", "S2L2A_B01_B09", "DEM"]) == (
        "DEM_DEM",
        "S2L2A_B01_B09",
        "S2L2A_B02_B03_B04_B08",
        "S2L2A_B05_B06_B07_B11_B12_B8A",
        "mean_timestamps",
    )
    assert resolve([]) == ()


@pytest.mark.parametrize("name", ["S2", "dem", "", "S2L2A_B02"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(RequestError, match=r"families are DEM, LULC.*keys are 3d_cartesian_lat_lon") as caught:
        resolve(["DEM", name])
    assert repr(name) in str(caught.value)
    with pytest.raises(RequestError, match=r"keys are 3d_cartesian_lat_lon"):
        get(name)


def test_a_family_is_no_key() -> None:
    with pytest.raises(RequestError, match="unknown modality 'DEM'"):
        get("DEM")


def test_the_catalogue_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        BY_KEY["DEM_DEM"] = get("LULC_LULC")  # type: ignore[index]
    with pytest.raises(TypeError):
        get("LULC_LULC").codes[3] = "grass"  # type: ignore[index]
    with pytest.raises(TypeError):
        get("DEM_DEM").constants["floor"] = 0.0  # type: ignore[index]
