"""Normalisations that keep float32 statistics whatever the dtype of the weights.

With the weights in half precision the means and variances still need float32: a sum of squares over thousands of
elements leaves the range of float16. In float32 the casts do nothing.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class LayerNormFloat32(nn.LayerNorm):
    """``nn.LayerNorm`` computed in float32, returning the dtype of its input (..., width)."""

    def forward(self, input: Tensor) -> Tensor:
        normed = F.layer_norm(
            input.float(), self.normalized_shape, self.weight.float(), self.bias.float(), eps=self.eps
        )
        return normed.to(input.dtype)


class GroupNormFloat32(nn.GroupNorm):
    """``nn.GroupNorm`` computed in float32, returning the dtype of its input (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            # The fused kernel, whose statistics are float32 too, takes half the time, and has the gradient.
            return super().forward(input)
        channels, height, width = input.shape[1:]
        # An instance norm over flattened groups: its ONNX form is one node with constant shapes, where group_norm's
        # exporter computes the batch at run time.
        groups = input.float().reshape(-1, self.num_groups, channels // self.num_groups * height * width)
        normed = F.instance_norm(groups, eps=self.eps).reshape(-1, channels, height, width)
        affine = normed * self.weight.float().reshape(channels, 1, 1) + self.bias.float().reshape(channels, 1, 1)
        return affine.to(input.dtype)
