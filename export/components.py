"""The components as PyTorch modules with plain tensor inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..copgen_ref.autoencoder import Autoencoder
from ..copgen_ref.checkpoint import CheckpointFiles, load_autoencoder, load_network
from ..copgen_ref.network import CopgenNetwork
from ..runtime.components import STEP


class EncoderModule(nn.Module):
    """``image`` (B, channels, H, W) in model space to unscaled ``moments`` (B, 16, h, w)."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode_moments(image)


class DecoderModule(nn.Module):
    """Scaled ``latent`` (B, 8, h, w) to ``image`` (B, channels, H, W) in model space."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent)


class StepModule(nn.Module):
    """Joint ``latents`` (B, 26118) at ``timesteps`` (B, 12) to the predicted ``noise`` (B, 26118)."""

    def __init__(self, network: CopgenNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        return self.network.forward_joint(latents, timesteps)


def build_module(files: CheckpointFiles, name: str) -> nn.Module:
    """The component ``name`` in float32 with the weights of ``files``, in evaluation mode.

    Raises :class:`~copgen_edge.runtime.errors.CheckpointError` where the checkpoint lacks it.
    """
    with torch.no_grad():
        if name == STEP:
            module: nn.Module = StepModule(load_network(files))
        else:
            part, key = name.split("_", 1)
            autoencoder = load_autoencoder(files, key)
            module = EncoderModule(autoencoder) if part == "encoder" else DecoderModule(autoencoder)
    return module.eval().requires_grad_(False)
