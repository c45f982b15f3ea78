"""Every number that decides what a small model becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...runtime.modalities import MODALITIES
from ..autoencoder import AutoencoderConfig
from ..network import NetworkConfig

_PATCHES = {24: 4, 12: 2, 8: 1, 4: 2, 1: 1}
"""Side of a latent -> side of a patch: 320 m for the finer modalities, 240 m for elevation, whose patches lie askew of
theirs and would, were they 480 m, show a slope at three places out of three in another way, and 960 m at 60 m."""

NORM_GROUPS = 4
"""Groups of a normalisation: the published 32 would take from a level of 32 channels the brightness of an image."""

LATENT_STD = 0.3
"""Standard deviation of scaled latents. With 1, as published, the brightness of a whole scene, which all pixels of six
modalities share, still stands out of the noise at t = 1000 (14 times its variance), and sampling, which starts from
noise alone, can only begin at the average brightness."""

_FINE = (1, 1, 2, 2)
_COARSE = (1, 1, 1, 2)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How one autoencoder is trained: ``steps`` batches of ``batch`` crops of ``crop`` pixels, the last ``whole_share``
    of them on whole images with as many pixels a batch, since attention sees all of an image at once."""

    steps: int
    batch: int = 4
    crop: int = 64
    learning_rate: float = 1e-3
    warm_up: int = 40
    kl_weight: float = 3e-4
    whole_share: float = 0.1


@dataclass(frozen=True)
class NetworkRecipe:
    """How the network is trained: ``steps`` batches of ``batch`` quadrants, the last ``whole_share`` of them of
    ``whole_batch`` whole patches; ``sampling_share`` of a batch with the timesteps of sampling; AdamW, a linear
    warm-up, then a cosine to ``final_rate`` of the rate, of which queries, keys and values have ``attention_rate``; and
    the exponential moving average of the weights is kept.

    In the last ``late_share`` of the steps, ``ground_share`` of a batch has place, elevation, cover and date given, and
    ``first_call_share`` of that what the first call of sampling sees, noise alone for all else; the rate rises again
    within ``ground_warm_up`` steps and falls, and attention has all of it: the heads no longer need to be kept at what
    they started with, and have to find what else the land cover tells. Those of the first block have
    ``first_attention_rate`` of it: they bring every place its elevation, and at all of it lost two thirds of what that
    tells of slopes within 3000 steps.

    ``light_weight`` is what the error in telling the light on slopes counts beside those in telling the noise, and what
    of the latter lies along the light counts ``light_gain`` times more than the rest; of the rows with the ground given
    every other is drawn the likelier, the more the light on it varies."""

    steps: int
    batch: int = 16
    whole_batch: int = 8
    whole_share: float = 0.13
    sampling_share: float = 0.5
    late_share: float = 0.37
    ground_share: float = 0.5
    first_call_share: float = 0.5
    light_weight: float = 0.3
    light_gain: float = 4.0
    ground_warm_up: int = 150
    learning_rate: float = 1.5e-4
    attention_rate: float = 0.2
    first_attention_rate: float = 0.02
    final_rate: float = 0.02
    warm_up: int = 300
    weight_decay: float = 0.02
    ema_decay: float = 0.999

    @property
    def whole_steps(self) -> int:
        """How many of the steps, the last ones, see whole patches."""
        return round(self.steps * self.whole_share)

    @property
    def first_ground_step(self) -> int:
        """The first step of the last part."""
        return self.steps - round(self.steps * self.late_share)


@dataclass(frozen=True)
class Recipe:
    """All of it. ``autoencoders`` is keyed by modality; ``patches`` of the world are encoded for the network, the first
    ``autoencoder_patches`` of which train the autoencoders, and with them ``winter_patches`` of places with a winter
    and a summer; ``held_out`` others tell the reconstruction error."""

    network_config: NetworkConfig
    autoencoder_patches: int
    patches: int
    winter_patches: int
    autoencoders: Mapping[str, AutoencoderRecipe]
    network: NetworkRecipe
    held_out: int = 32
    seed: int = 0

    def scaled(self, effort: float) -> Recipe:
        """The same with ``effort`` times the steps and patches; batches and rates stay."""

        def times(number: int, least: int) -> int:
            return max(least, round(number * effort))

        return replace(
            self,
            autoencoder_patches=times(self.autoencoder_patches, 8),
            patches=times(self.patches, 16),
            winter_patches=times(self.winter_patches, 8),
            held_out=times(self.held_out, 2),
            autoencoders={key: replace(one, steps=times(one.steps, 2)) for key, one in self.autoencoders.items()},
            network=replace(self.network, steps=times(self.network.steps, 2)),
        )


def autoencoder_config(channels: int, size: int) -> AutoencoderConfig:
    """The dimensions of a small autoencoder for images of ``channels`` and ``size`` pixels a side."""
    return AutoencoderConfig(
        channels, 32, _FINE if size == 192 else _COARSE, encoder_blocks=1, decoder_blocks=1, groups=NORM_GROUPS
    )


SMALL = Recipe(
    NetworkConfig(width=384, depth=2, heads=12, patch_sizes=tuple(_PATCHES[m.latent_shape[1]] for m in MODALITIES)),
    autoencoder_patches=1024,
    patches=2048,
    winter_patches=1536,
    autoencoders={
        "DEM_DEM": AutoencoderRecipe(3000),
        "LULC_LULC": AutoencoderRecipe(2000),
        "S1RTC_vh_vv": AutoencoderRecipe(1200),
        "S2L1C_B01_B09_B10": AutoencoderRecipe(3000, batch=8, crop=32),
        "S2L1C_B02_B03_B04_B08": AutoencoderRecipe(3000),
        "S2L1C_B05_B06_B07_B11_B12_B8A": AutoencoderRecipe(3000),
        "S2L1C_cloud_mask": AutoencoderRecipe(1200),
        "S2L2A_B01_B09": AutoencoderRecipe(3000, batch=8, crop=32),
        "S2L2A_B02_B03_B04_B08": AutoencoderRecipe(2500),
        "S2L2A_B05_B06_B07_B11_B12_B8A": AutoencoderRecipe(2000),
    },
    network=NetworkRecipe(20500),
)
"""What ``copgen-edge train-small`` trains."""
