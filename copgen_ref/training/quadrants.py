"""Quadrants of images, 0 to 3 by rows, another one for each image of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def one_quadrant(images: Tensor, quadrants: Tensor) -> Tensor:
    """Quadrant ``quadrants`` (B,) of each of ``images`` (B, C, H, W), whose sides are even: (B, C, H / 2, W / 2)."""
    channels, height, width = images.shape[1:]
    four = images.reshape(-1, channels, 2, height // 2, 2, width // 2)
    return four[torch.arange(len(four), device=four.device), :, quadrants // 2, :, quadrants % 2]
