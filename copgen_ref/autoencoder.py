"""The KL autoencoder of one image modality: image to moments, latent to image.

Source: COP-GEN (arXiv 2603.03239). Module names are those of the published state dicts. Every reshape has -1 for the
batch and Python integers for the rest, so that an exported graph computes no shape at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..runtime.errors import RequestError
from .normalization import GroupNormFloat32

GROUPS = 32
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The dimensions of an autoencoder.

    ``channels`` are the image's; level ``i`` (0 is the finest) is ``ch * ch_mult[i]`` wide, and each further level
    halves the image. ``encoder_blocks`` and ``decoder_blocks`` are residual blocks a level. ``scale_factor`` multiplies
    the latent that the network sees. Raises :class:`RequestError` where a width is no multiple of the ``groups`` that
    are normalised together.
    """

    channels: int
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_channels: int = 8
    scale_factor: float = 1.0
    groups: int = GROUPS

    def __post_init__(self) -> None:
        for width in self.widths:
            if self.groups < 1 or width < 1 or width % self.groups:
                raise RequestError(
                    f"a level of the autoencoder is {width} wide, expected a multiple of its {self.groups} groups"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.ch * mult for mult in self.ch_mult)


def _norm(channels: int, groups: int) -> GroupNormFloat32:
    return GroupNormFloat32(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class SpatialAttention(nn.Module):
    """Single-head self-attention over the pixels of (B, C, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        normed = self.norm(x)
        q, k, v = (layer(normed).reshape(-1, channels, height * width) for layer in (self.q, self.k, self.v))
        weights = torch.softmax((q * channels**-0.5).transpose(1, 2) @ k, dim=-1)
        attended = (v @ weights.transpose(1, 2)).reshape(-1, channels, height, width)
        return x + self.proj_out(attended)


class Middle(nn.Module):
    """Residual block, attention, residual block, at the coarsest level."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = SpatialAttention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halves (B, C, H, W) by a convolution that sees zeros beyond the right and the lower border only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles (B, C, H, W): nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one level."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(channels_in if i == 0 else channels_out, channels_out, groups) for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class DownLevel(Level):
    """A level of the encoder; all but the coarsest end in a down-convolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, groups: int, *, coarsest: bool) -> None:
        super().__init__(channels_in, channels_out, blocks, groups)
        self.downsample = nn.Identity() if coarsest else Downsample(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class UpLevel(Level):
    """A level of the decoder; all but the finest end in an up-convolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, groups: int, *, finest: bool) -> None:
        super().__init__(channels_in, channels_out, blocks, groups)
        self.upsample = nn.Identity() if finest else Upsample(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class Encoder(nn.Module):
    """Image (B, channels, H, W) to (B, 2 * latent_channels, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(before, after, config.encoder_blocks, config.groups, coarsest=i == len(widths) - 1)
            for i, (before, after) in enumerate(zip((config.ch, *widths), widths, strict=False))
        )
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = _norm(widths[-1], config.groups)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) to an image (B, channels, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        self.up = nn.ModuleList(
            UpLevel(before, after, config.decoder_blocks, config.groups, finest=i == 0)
            for i, (before, after) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = _norm(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Encoder and decoder of one modality. What goes in and comes out is float32, whatever the dtype of the weights."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode_moments(self, image: Tensor) -> Tensor:
        """Moments (B, 16, h, w) of an image (B, C, H, W) in model space: mean, then logvar, unscaled and unclamped."""
        return self.quant_conv(self.encoder(image.to(self.quant_conv.weight.dtype))).float()

    def sample_latent(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """The scaled latent (B, 8, h, w) that ``noise`` of that shape draws from ``moments``; None gives the mean."""
        mean, logvar = moments.chunk(2, dim=1)
        if noise is not None:
            mean = mean + torch.exp(logvar.clamp(*LOGVAR_RANGE) / 2) * noise
        return self.config.scale_factor * mean

    def decode(self, latent: Tensor) -> Tensor:
        """The image (B, C, H, W) in model space of a scaled latent (B, 8, h, w)."""
        unscaled = (latent / self.config.scale_factor).to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(unscaled)).float()
