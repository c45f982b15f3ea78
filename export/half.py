"""Half precision with float32 islands, decided in PyTorch so that the ONNX graph says it by types and casts.

Islands are the normalisations (their statistics overflow and cancel in half) and the sinusoidal timestep embedding
(t up to 1000 has no room in half); inputs and outputs stay float32. A plan may keep whole units in float32.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ..copgen_ref.network import PatchEmbed
from ..copgen_ref.normalization import GroupNormFloat32, LayerNormFloat32
from ..runtime.errors import CalibrationError
from .units import TOKENS, unit_of

ISLANDS = (LayerNormFloat32, GroupNormFloat32)


def to_half(module: nn.Module, float32_units: Collection[str] = ()) -> nn.Module:
    """``module`` with its weights in float16, in place, but for those of the islands and of ``float32_units``.

    With ``float32_units`` every unit casts what enters it to the dtype of its own weights, so that between two units in
    float32 the values stay float32. Raises :class:`CalibrationError` for a unit that the module has not.
    """
    units = {unit_of(name) for name, _ in module.named_parameters()}
    if unknown := set(float32_units) - units:
        raise CalibrationError(
            f"the plan names {', '.join(sorted(unknown))}, which this model has not; run 'copgen-edge calibrate "
            "halves' on a bundle of this checkpoint"
        )
    for name, part in module.named_modules():
        for parameter_name, parameter in part.named_parameters(prefix=name, recurse=False):
            if not isinstance(part, ISLANDS) and unit_of(parameter_name) not in float32_units:
                parameter.data = parameter.data.half()
    if float32_units:
        # Without weights a unit has no dtype: it passes on what it gets.
        for name, part in module.named_modules():
            if unit_of(name) == name and name in units:
                part.register_forward_pre_hook(_Cast(_dtype(name, float32_units)))
            if isinstance(part, PatchEmbed):
                part.register_forward_hook(_CastOutput(_dtype(TOKENS, float32_units)))
    return module


def _dtype(unit: str, float32_units: Collection[str]) -> torch.dtype:
    return torch.float32 if unit in float32_units else torch.float16


class _Cast:
    """A hook that casts what enters a module."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, part: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(argument.to(self._dtype) for argument in arguments)


class _CastOutput:
    """A hook that casts what a module gives: tokens, to the dtype of the positions that are added to them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, part: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(self._dtype)
