"""Half precision that holds: units that stay in float32, and overflows that are caught before anything is exported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from copgen_edge.copgen_ref.checkpoint import find_checkpoint
from copgen_edge.export import exporter
from copgen_edge.export.components import build_module
from copgen_edge.export.half import to_half
from copgen_edge.export.half_plan import HalfPlan
from copgen_edge.export.onnx_file import ExportError
from copgen_edge.export.overflow import half_peaks, require_half_range
from copgen_edge.export.units import unit_of
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError
from copgen_edge.runtime.parity import probe_inputs
from torch import Tensor, nn

from ..calibration.overflowing import BLOCK, DECODER, RESIDUAL, UNITS, write_overflowing_checkpoint


@pytest.fixture(scope="module")
def overflowing(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_overflowing_checkpoint(checkpoint, tmp_path_factory.mktemp("overflowing") / "checkpoint")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def inputs_of(component: str) -> list[Tensor]:
    return [torch.from_numpy(values) for values in probe_inputs(component, 1, 5).values()]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("component", UNITS)
def test_a_plan_saves_what_overflows_in_real_half_arithmetic(overflowing: Path, component: str) -> None:
    files = find_checkpoint(overflowing)
    inputs = inputs_of(component)
    expected = build_module(files, component)(*inputs)
    assert expected.isfinite().all()
    # PyTorch rounds each result to half on a CPU too.
    assert not to_half(build_module(files, component))(*inputs).isfinite().all()
    found = to_half(build_module(files, component), UNITS[component])(*inputs)
    assert found.dtype == torch.float32
    assert 0 < error(found, expected) < 1e-2


@pytest.mark.parametrize(
    "units",
    [
        ("network.patch_embeds.3",),
        ("network.pos_embed", "network.in_blocks.0"),
        ("network.out_blocks.1",),
        ("network.decoder_preds.0", "network.mid_block"),
    ],
)
def test_any_unit_of_the_network_may_stay(overflowing: Path, units: tuple[str, ...]) -> None:
    files = find_checkpoint(overflowing)
    inputs = inputs_of(STEP)
    kept = (BLOCK, *units)
    module = to_half(build_module(files, STEP), kept)
    for name, parameter in module.named_parameters():
        island = ".norm" in name
        assert (parameter.dtype == torch.float32) == (island or unit_of(name) in kept), name
    assert error(module(*inputs), build_module(files, STEP)(*inputs)) < 1e-2


def test_with_every_unit_in_float32_nothing_is_lost(overflowing: Path) -> None:
    for component in UNITS:
        module = build_module(find_checkpoint(overflowing), component)
        inputs = inputs_of(component)
        expected = module(*inputs)
        every = {unit for unit in (unit_of(name) for name, _ in module.named_parameters()) if unit is not None}
        torch.testing.assert_close(to_half(module, every)(*inputs), expected, rtol=0, atol=0)


def test_without_a_plan_nothing_is_hung_on_the_module(overflowing: Path) -> None:
    module = to_half(build_module(find_checkpoint(overflowing), DECODER))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_unit_of_another_model_is_refused(overflowing: Path) -> None:
    module = build_module(find_checkpoint(overflowing), STEP)
    with pytest.raises(CalibrationError, match=r"network\.in_blocks\.7, which this model has not"):
        to_half(module, (BLOCK, "network.in_blocks.7"))
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize(("component", "unit"), [(STEP, BLOCK), (DECODER, RESIDUAL)])
def test_an_overflow_is_seen_where_it_is(overflowing: Path, component: str, unit: str) -> None:
    module = build_module(find_checkpoint(overflowing), component)
    inputs = inputs_of(component)
    expected = module(*inputs)
    with half_peaks(module) as peaks:
        torch.testing.assert_close(module(*inputs), expected, rtol=0, atol=0)
    assert [name for name, value in peaks.largest.items() if value > 65504] == [unit]
    # The module of a decoder has its encoder too, which does not run.
    ran = {unit_of(name) for name, _ in module.named_parameters() if ".encoder." not in name and ".quant_" not in name}
    assert set(peaks.largest) == ran - {None}
    with pytest.raises(ExportError, match=rf"{component} overflows in fp16 on these: {unit} reaches \d.*--half-plan"):
        require_half_range(component, peaks, "these")
    with half_peaks(module, (unit,)) as peaks:
        module(*inputs)
    require_half_range(component, peaks, "these")
    # Nothing stays behind.
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_what_enters_a_half_unit_counts(overflowing: Path) -> None:
    """A stream beyond half that leaves a float32 unit for one in half."""
    module: nn.Module = build_module(find_checkpoint(overflowing), DECODER)
    before = "autoencoder.decoder.up.0.block.1"
    part = module.get_submodule(before)
    for parameter in part.conv2.parameters():  # type: ignore[union-attr]
        parameter.data = parameter.data * 2.0**20
    with half_peaks(module, (before,)) as peaks:
        module(*inputs_of(DECODER))
    assert peaks.largest[RESIDUAL] > 65504 and before not in peaks.largest


def test_an_export_that_would_overflow_is_refused(overflowing: Path, tmp_path: Path) -> None:
    for component, (unit,) in UNITS.items():
        with pytest.raises(ExportError, match=rf"{component} overflows in fp16 on the probe inputs: {unit} reaches"):
            exporter.export_bundle(overflowing, tmp_path / "out", precisions=("fp16",), components=(component,))
        assert list(tmp_path.iterdir()) == []


def test_a_plan_of_other_weights_is_refused(overflowing: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    other = hashlib.sha256(b"other").hexdigest()
    path.write_text(HalfPlan({DECODER: (RESIDUAL,)}, "abc", {"a.pth": other}, {}, 1e4).to_json())
    with pytest.raises(
        CalibrationError, match=r"the plan for decoder_DEM_DEM was measured on other weights than model-"
    ):
        exporter.export_bundle(
            overflowing, tmp_path / "out", precisions=("fp16",), components=(DECODER,), half_plan=path
        )
    assert list(tmp_path.iterdir()) == [path]
