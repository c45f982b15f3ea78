"""The denoising network of COP-GEN: a U-ViT over the tokens of all twelve modalities, each with a timestep of its own.

Source: COP-GEN (arXiv 2603.03239). Module names are those of the published state dicts. Every reshape has -1 for the
batch and Python integers for the rest, so that an exported graph computes no shape at run time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..runtime.errors import RequestError
from ..runtime.modalities import JOINT_SLICES, KEYS, MODALITIES, Modality
from .normalization import LayerNormFloat32

MLP_RATIO = 4
PATCH_SIZES: tuple[int, ...] = tuple(2 if m.is_image else 1 for m in MODALITIES)
"""Sides of a patch in latent pixels, in network order, as published."""


@dataclass(frozen=True)
class NetworkConfig:
    """The dimensions of a network.

    ``depth`` counts in-blocks and out-blocks together, without the one in the middle. ``patch_sizes`` has the side of
    a patch, in latent pixels, of each modality in network order. Raises :class:`RequestError` where the numbers do not
    fit each other.
    """

    width: int
    depth: int
    heads: int
    patch_sizes: tuple[int, ...] = PATCH_SIZES

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise RequestError(f"{self.heads} heads do not divide the width {self.width}; give a divisor of the width")
        if self.width % 2:
            raise RequestError(f"the width is {self.width}, but sine and cosine of the timestep need an even one")
        if self.depth < 2 or self.depth % 2:
            raise RequestError(f"the depth is {self.depth}, but in-blocks and out-blocks need an even one, 2 or more")
        if len(self.patch_sizes) != len(MODALITIES):
            raise RequestError(f"{len(self.patch_sizes)} patch sizes were given, but there are {len(MODALITIES)}")
        for modality, patch in zip(MODALITIES, self.patch_sizes, strict=True):
            _, height, width = modality.latent_shape
            if patch < 1 or height % patch or width % patch:
                raise RequestError(f"patch size {patch} of {modality.key} does not divide its {height}x{width} latent")

    @property
    def patch_tokens(self) -> tuple[int, ...]:
        """Patch tokens of each modality, in network order."""
        return tuple(
            (m.latent_shape[1] // p) * (m.latent_shape[2] // p)
            for m, p in zip(MODALITIES, self.patch_sizes, strict=True)
        )

    @property
    def tokens(self) -> int:
        """Length of the token sequence: one time token and the patch tokens of each modality."""
        return len(MODALITIES) + sum(self.patch_tokens)


VARIANTS: Mapping[str, NetworkConfig] = MappingProxyType(
    {
        "base": NetworkConfig(width=1024, depth=20, heads=16),
        "large": NetworkConfig(width=1152, depth=28, heads=16),
        "huge": NetworkConfig(width=1536, depth=30, heads=24),
    }
)


class PatchEmbed(nn.Module):
    """Latent (B, C, H, W) to patch tokens (B, tokens, width)."""

    def __init__(self, modality: Modality, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(modality.latent_shape[0], width, kernel_size=patch, stride=patch)

    def forward(self, latent: Tensor) -> Tensor:
        embedded = self.proj(latent)
        width, rows, columns = embedded.shape[1:]
        return embedded.reshape(-1, width, rows * columns).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over (B, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1:]
        head_dim = width // self.heads
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        # The scale goes to q, not to the product, which in half precision could overflow first.
        weights = torch.softmax((q * head_dim**-0.5) @ k.transpose(-2, -1), dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(-1, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """What in-blocks, the middle and out-blocks share: a post-norm transformer block over (B, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm2 = LayerNormFloat32(width)
        self.attn = Attention(width, heads)
        self.norm3 = LayerNormFloat32(width)
        self.mlp = Mlp(width)

    def transform(self, x: Tensor) -> Tensor:
        x = self.norm2(x + self.attn(x))
        return self.norm3(x + self.mlp(x))


class InBlock(_Block):
    """The block by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(x)


class OutBlock(_Block):
    """The block, after joining the output of an in-block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.norm1 = LayerNormFloat32(width)
        self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.transform(self.norm1(self.skip_linear(torch.cat([x, skip], dim=-1))))


class CopgenNetwork(nn.Module):
    """Predicts the noise in the latent of every modality.

    Latents and predictions are float32 whatever the dtype of the weights. Timesteps are float32 in 0..1000, fractions
    included: 0 says clean, 1000 says noise.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.patch_embeds = nn.ModuleList(
            PatchEmbed(m, p, width) for m, p in zip(MODALITIES, config.patch_sizes, strict=True)
        )
        self.in_blocks = nn.ModuleList(InBlock(width, heads) for _ in range(config.depth // 2))
        self.mid_block = InBlock(width, heads)
        self.out_blocks = nn.ModuleList(OutBlock(width, heads) for _ in range(config.depth // 2))
        self.norm = LayerNormFloat32(width)
        self.decoder_preds = nn.ModuleList(
            nn.Linear(width, p * p * m.latent_shape[0]) for m, p in zip(MODALITIES, config.patch_sizes, strict=True)
        )
        # Neither parameter nor buffer: it is no part of the state dict, and must stay float32 on a real device when
        # the weights go to half precision or are built on the meta device.
        self._frequencies = torch.exp(
            torch.arange(width // 2, dtype=torch.float32, device="cpu") * (-2.0 * math.log(10000.0) / width)
        )

    def forward(self, latents: Mapping[str, Tensor], timesteps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise in ``latents``, with the same keys and shapes.

        ``latents`` has (B, C, H, W) and ``timesteps`` (B,) for each of the twelve keys; the two scalars are
        (B, 1, 1, 3). Raises :class:`RequestError` where a key is missing or unknown.
        """
        for what, given in (("latents", latents), ("timesteps", timesteps)):
            if set(given) != set(KEYS):
                wrong = ", ".join(sorted(set(given) ^ set(KEYS)))
                raise RequestError(f"the {what} must have exactly the twelve keys; missing or unknown: {wrong}")
        noise = self._predict([latents[key] for key in KEYS], torch.stack([timesteps[key] for key in KEYS], dim=1))
        return dict(zip(KEYS, noise, strict=True))

    def forward_joint(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise in the joint latent (B, 26118), given timesteps (B, 12); both in network order."""
        noise = self._predict(split_joint(latents), timesteps)
        return torch.cat([n.reshape(-1, m.latent_size) for n, m in zip(noise, MODALITIES, strict=True)], dim=1)

    def transform(self, latents: Sequence[Tensor], timesteps: Tensor, pos_embed: Tensor) -> list[Tensor]:
        """The tokens (B, tokens, width) of each modality as the output layers read them.

        ``latents`` has the twelve (B, C, H, W) in network order, ``timesteps`` is (B, 12), and ``pos_embed`` has the
        positions of the twelve time tokens and of all patches: :attr:`pos_embed` for whole latents, rows of it for
        windows of them.
        """
        dtype = self.pos_embed.dtype
        patches = [embed(latent.to(dtype)) for embed, latent in zip(self.patch_embeds, latents, strict=True)]
        counts = [tokens.shape[1] for tokens in patches]
        x = torch.cat([self.time_tokens(timesteps).to(dtype), *patches], dim=1) + pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        _, *patches = self.norm(x).split([len(MODALITIES), *counts], dim=1)
        return patches

    def time_tokens(self, timesteps: Tensor) -> Tensor:
        """The tokens (B, 12, width) that tell the timesteps (B, 12)."""
        angles = timesteps.float().unsqueeze(-1) * self._frequencies.to(timesteps.device)
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    def _predict(self, latents: list[Tensor], timesteps: Tensor) -> list[Tensor]:
        return [
            _unpatchify(head(tokens), m, p).float()
            for head, tokens, m, p in zip(
                self.decoder_preds,
                self.transform(latents, timesteps, self.pos_embed),
                MODALITIES,
                self.config.patch_sizes,
                strict=True,
            )
        ]


def split_joint(latents: Tensor) -> list[Tensor]:
    """The latents (B, C, H, W) of the twelve modalities in a joint latent (B, 26118)."""
    return [latents[:, JOINT_SLICES[m.key]].reshape(-1, *m.latent_shape) for m in MODALITIES]


def patchify(latent: Tensor, patch: int) -> Tensor:
    """The patches (B, tokens, patch * patch * C) of a latent (B, C, H, W), channels last as output layers have them."""
    channels, height, width = latent.shape[1:]
    grid = latent.reshape(-1, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(len(latent), -1, patch * patch * channels)


def _unpatchify(tokens: Tensor, modality: Modality, patch: int) -> Tensor:
    channels, height, width = modality.latent_shape
    grid = tokens.reshape(-1, height // patch, width // patch, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, height, width)
