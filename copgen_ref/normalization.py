"""Normalisations that keep float32 statistics whatever the dtype of the weights.

With the weights in half precision the means and variances still need float32: a sum of squares over thousands of
elements leaves the range of float16. In float32 the casts do nothing.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

_ONE_SUM = 2**18
"""Elements of a group up to which one sum in float32 will do. ONNX Runtime adds them one by one on a CPU: with 295,000
an autoencoder's image was 5e-5 (relative L2) from that of float64, and is 1e-6 with sums of rows."""


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
        size = channels // self.num_groups * height * width
        if size > _ONE_SUM:
            normed = self._by_rows(input.float().reshape(-1, self.num_groups, size // width, width))
        else:
            # An instance norm over flattened groups: its ONNX form is one node with constant shapes, where group_norm's
            # exporter computes the batch at run time.
            normed = F.instance_norm(input.float().reshape(-1, self.num_groups, size), eps=self.eps)
        normed = normed.reshape(-1, channels, height, width)
        affine = normed * self.weight.float().reshape(channels, 1, 1) + self.bias.float().reshape(channels, 1, 1)
        return affine.to(input.dtype)

    def _by_rows(self, groups: Tensor) -> Tensor:
        """``groups`` (B, G, rows, W) less their mean, over their standard deviation: first of rows, then of those."""
        centred = groups - groups.mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
        return centred * (variance + self.eps).rsqrt()
