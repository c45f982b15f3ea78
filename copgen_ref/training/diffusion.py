"""The objective: noise added to every modality at a timestep of its own, and the error in finding it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...runtime.modalities import JOINT_SLICES, KEYS, MODALITIES
from ...runtime.schedule import TRAIN_STEPS, alpha, sigma

_OF_MODALITY = torch.from_numpy(np.concatenate([np.full(m.latent_size, i, np.int64) for i, m in enumerate(MODALITIES)]))


def diffuse(clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Joint latents ``clean`` (B, 26118) at discrete ``times`` (B, 12) in 1..1000, with ``noise`` of their shape."""
    grid = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS
    signal, share = (torch.from_numpy(f(grid)).float().to(clean.device) for f in (alpha, sigma))
    index = (times.long() - 1)[:, _OF_MODALITY.to(clean.device)]
    return signal[index] * clean + share[index] * noise


def modality_losses(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each modality (12,) over joint arrays (B, 26118); the objective is their sum (COP-GEN,
    arXiv 2603.03239, section 3)."""
    square = (predicted - noise).square().mean(dim=0)
    return torch.stack([square[JOINT_SLICES[key]].mean() for key in KEYS])
