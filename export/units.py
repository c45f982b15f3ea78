"""Units: the parts of a component that stay in float32 or go to half as a whole.

A unit is a block (transformer, residual, attention), a change of resolution, or a layer that stands outside of these;
its name is the path of the module in the exported component, which the initializers of the ONNX graph keep. The
normalisations between units and the timestep embedding belong to none: these are float32 anyway.
"""

from __future__ import annotations

import re

TOKENS = "network.pos_embed"
"""The sum of the embedded patches, the time tokens and their positions: a parameter, not a module."""

_NORMED = re.compile(
    r"network\.(in_blocks\.\d+|mid_block|out_blocks\.\d+)"
    r"|autoencoder\.(encoder|decoder)\.(mid\.(block_1|attn_1|block_2)|(down|up)\.\d+\.block\.\d+)"
)
_PLAIN = re.compile(
    r"network\.(pos_embed|patch_embeds\.\d+|decoder_preds\.\d+)"
    r"|autoencoder\.(encoder|decoder)\.(conv_in|conv_out|(down|up)\.\d+\.(downsample|upsample))"
    r"|autoencoder\.(quant_conv|post_quant_conv)"
)


def unit_of(path: str) -> str | None:
    """The unit that the module, parameter or initializer ``path`` is or is part of; None where it is in none."""
    for pattern in (_NORMED, _PLAIN):
        found = pattern.match(path)
        if found is not None and path[found.end() : found.end() + 1] in ("", "."):
            return found.group()
    return None


def has_norms(unit: str) -> bool:
    """Whether the unit ``unit`` has normalisations of its own."""
    return _NORMED.fullmatch(unit) is not None
