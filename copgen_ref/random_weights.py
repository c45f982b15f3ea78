"""Checkpoints with random weights in the authors' layout, for demonstrations and benchmarks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..runtime.errors import RequestError
from ..runtime.folders import new_folder
from ..runtime.modalities import IMAGE_KEYS, get
from .autoencoder import Autoencoder, AutoencoderConfig
from .files import AUTOENCODER_FOLDERS, CONFIG_NAME
from .network import VARIANTS, CopgenNetwork, NetworkConfig


@dataclass(frozen=True)
class _Dimensions:
    network: NetworkConfig
    ch: int
    ch_mult: tuple[int, ...]


_DIMENSIONS: Mapping[str, _Dimensions] = MappingProxyType(
    {"small": _Dimensions(NetworkConfig(width=64, depth=4, heads=4), 32, (1, 2, 1, 1))}
    | {name: _Dimensions(config, 128, (1, 2, 4, 4)) for name, config in VARIANTS.items()}
)
RANDOM_VARIANTS: tuple[str, ...] = tuple(_DIMENSIONS)
"""``small`` (width 64, depth 4, 4 heads; ch 32), and the published dimensions: ``base``, ``large``, ``huge``."""


def write_random_checkpoint(folder: str | Path, variant: str = "small", *, seed: int = 0) -> Path:
    """Write a checkpoint of :data:`RANDOM_VARIANTS` with random weights to ``folder``, and return that folder.

    The same seed gives the same weights. One component is in memory at a time, and ``folder`` appears only when it is
    complete. Raises :class:`RequestError` for an unknown variant and where ``folder`` already holds something.
    """
    if variant not in _DIMENSIONS:
        raise RequestError(f"unknown variant {variant!r}; those with random weights are {', '.join(RANDOM_VARIANTS)}")
    dimensions = _DIMENSIONS[variant]
    with torch.device("meta"):
        network = CopgenNetwork(dimensions.network)
        autoencoders = {
            key: Autoencoder(AutoencoderConfig(get(key).channels, dimensions.ch, dimensions.ch_mult))
            for key in IMAGE_KEYS
        }
    needed = sum(4 * p.numel() for model in (network, *autoencoders.values()) for p in model.parameters())
    root = Path(folder)
    with new_folder(root, needed) as work:
        _write(work / f"models/copgen/cop_gen_{variant}/nnet_ema.pth", network, f"{seed}/network")
        for key, autoencoder in autoencoders.items():
            _write(work / f"models/vae/{AUTOENCODER_FOLDERS[key]}/model-50-ema.pth", autoencoder, f"{seed}/{key}")
        config = {"num_heads": dimensions.network.heads, "weights": "random"}
        (work / CONFIG_NAME).write_text(json.dumps(config) + "\n", encoding="utf-8")
    return root.resolve()


def _write(path: Path, model: nn.Module, seed: str) -> None:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 1)
    path.parent.mkdir(parents=True)
    torch.save({key: _random(key, value.shape, generator) for key, value in model.state_dict().items()}, path)


def _random(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if key == "pos_embed":
        return 0.02 * torch.randn(shape, generator=generator)
    if key.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    # Unit variance in, unit variance out: activations, predicted noise and decoded images all stay of order 1.
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
