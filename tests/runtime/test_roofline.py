"""What a call did against what a device can do, worked out by hand."""

from __future__ import annotations

import pytest
from copgen_edge.runtime.benchmark import Timing
from copgen_edge.runtime.bundle import Component, FileRecord, Variant
from copgen_edge.runtime.components import contract
from copgen_edge.runtime.peaks import PEAKS, Peak
from copgen_edge.runtime.roofline import occupancy

# Moved at the least, in a call of 2 rows: 1e6 bytes of weights, and latents, timesteps and noise in float32.
LEAST_BYTES = 1e6 + 2 * 4 * (26118 + 12 + 26118)
COST = {"flops_per_row": 3_000_000_000, "weight_bytes": 1_000_000, "activation_bytes_per_row": 50_000_000}
TIMING = Timing("dit_step", "engine", 2, (0.5, 0.25, 0.125), None, None)


def step(cost: dict[str, int]) -> Component:
    edges = contract("dit_step")
    file = FileRecord("file", 1, "")
    return Component("dit_step", edges.inputs, edges.outputs, 20, file, {"fp16": Variant((file,), 5e-3, {}, cost)})


def test_work_and_speed_are_of_the_call() -> None:
    assert occupancy(TIMING, step(COST), "fp16", None) == {
        "flops": 6_000_000_000,
        "tflops_per_second": pytest.approx(6e9 / 0.25 / 1e12),
        "weight_bytes": 1_000_000,
        "activation_bytes": 100_000_000,
        "peak_ratio": None,
        "roofline_seconds": None,
    }


def test_arithmetic_bounds_where_memory_is_fast() -> None:
    found = occupancy(TIMING, step(COST), "fp16", Peak({"fp16": 1e11}, 1e9))
    assert found["peak_ratio"] == pytest.approx(0.24)
    assert found["roofline_seconds"] == pytest.approx(6e9 / 1e11)


def test_memory_bounds_where_it_is_slow() -> None:
    found = occupancy(TIMING, step(COST), "fp16", Peak({"fp16": 1e11}, 1e7))
    assert found["peak_ratio"] == pytest.approx(0.24)
    assert found["roofline_seconds"] == pytest.approx(LEAST_BYTES / 1e7)


def test_a_peak_of_another_precision_says_nothing() -> None:
    found = occupancy(TIMING, step(COST), "fp16", Peak({"fp32": 1e11}, 1e9))
    assert found["peak_ratio"] is None and found["roofline_seconds"] is None
    assert found["flops"] == 6_000_000_000


def test_a_bundle_without_costs_says_nothing() -> None:
    found = occupancy(TIMING, step({}), "fp16", Peak({"fp16": 1e11}, 1e9))
    assert len(found) == 6 and set(found.values()) == {None}


@pytest.mark.parametrize("name", sorted(PEAKS))
def test_the_peaks_are_dense_and_in_base_units(name: str) -> None:
    peak = PEAKS[name]
    # The tensor cores of these generations do 4 to 16 times what the CUDA cores do; 32 would be a sparse rate.
    assert 3.9 < peak.flops["fp16"] / peak.flops["fp32"] < 16.1
    assert 5e12 < peak.flops["fp32"] < 1e14 and 1e11 < peak.bandwidth < 1e13


@pytest.mark.parametrize("name", ["CPU", "Orin", "NVIDIA Thor", "NVIDIA H200 MIG 1g.18gb", "NVIDIA H200 NVL"])
def test_nothing_is_claimed_of_what_a_name_does_not_tell(name: str) -> None:
    assert name not in PEAKS
