"""Half precision with float32 islands, decided in PyTorch so that the ONNX graph says it by types and casts.

Islands are the normalisations (their statistics overflow and cancel in half) and the sinusoidal timestep embedding
(t up to 1000 has no room in half); inputs and outputs stay float32.
"""

from __future__ import annotations

from torch import nn

from ..copgen_ref.normalization import GroupNormFloat32, LayerNormFloat32

ISLANDS = (LayerNormFloat32, GroupNormFloat32)


def to_half(module: nn.Module) -> nn.Module:
    """``module`` with its weights in float16, in place, but for those of the islands."""
    for part in module.modules():
        if not isinstance(part, ISLANDS):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.half()
    return module
