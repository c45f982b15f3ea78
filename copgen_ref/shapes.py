"""Reading a model's dimensions off the shapes of its weights, and checking that all weights fit them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from ..runtime.errors import CheckpointError
from ..runtime.modalities import MODALITIES, get
from .autoencoder import GROUPS, AutoencoderConfig
from .network import VARIANTS, NetworkConfig

_HEADS = {(v.width, v.depth): v.heads for v in VARIANTS.values()}


def read_network_config(path: Path, state: Mapping[str, Tensor], num_heads: int | None) -> NetworkConfig:
    """The dimensions of the network in ``state``, which came from ``path``.

    ``num_heads`` None takes the published number of heads for that width and depth. Raises :class:`CheckpointError`
    where a key is missing, a shape makes no sense, or the heads are unknown.
    """
    width = _shape(path, state, "pos_embed", 3)[-1]
    depth = 2 * max(_count(state, "in_blocks."), _count(state, "out_blocks."))
    patches = tuple(_shape(path, state, f"patch_embeds.{i}.proj.weight", 4)[-1] for i in range(len(MODALITIES)))
    if num_heads is None:
        if (width, depth) not in _HEADS:
            known = ", ".join(f"{name} {v.width}/{v.depth}" for name, v in VARIANTS.items())
            raise CheckpointError(
                f"{path}: width {width} and depth {depth} are no published variant ({known}), so the heads are "
                'unknown; give num_heads, or put {"num_heads": N} into config.json at the checkpoint\'s root'
            )
        num_heads = _HEADS[width, depth]
    return NetworkConfig(width, depth, num_heads, patches)


def read_autoencoder_config(
    path: Path, state: Mapping[str, Tensor], key: str, scale_factor: float, groups: int = GROUPS
) -> AutoencoderConfig:
    """The dimensions of the autoencoder of modality ``key`` in ``state``, which came from ``path``.

    Raises :class:`CheckpointError` where a key is missing, or where the shapes belong to another modality.
    """
    modality = get(key)
    ch, channels = _shape(path, state, "encoder.conv_in.weight", 4)[:2]
    levels = _count(state, "encoder.down.")
    latent_channels = _shape(path, state, "post_quant_conv.weight", 4)[0]
    mults = []
    for level in range(levels):
        name = f"encoder.down.{level}.block.0.conv1.weight"
        level_width = _shape(path, state, name, 4)[0]
        if level_width % ch:
            raise CheckpointError(f"{path}: {name} gives {level_width} channels, expected a multiple of {ch}")
        mults.append(level_width // ch)
    if channels != modality.channels:
        raise CheckpointError(
            f"{path}: encoder.conv_in.weight takes {channels} channels, expected {modality.channels} for {key}; "
            "is it another modality's autoencoder?"
        )
    if latent_channels != modality.latent_shape[0] or modality.size != modality.latent_shape[1] << max(levels - 1, 0):
        raise CheckpointError(
            f"{path}: {levels} levels (encoder.down) and {latent_channels} latent channels (post_quant_conv.weight) do "
            f"not make a latent {modality.latent_shape} of {key}; give the autoencoder that belongs to the network"
        )
    return AutoencoderConfig(
        channels=channels,
        ch=ch,
        ch_mult=tuple(mults),
        encoder_blocks=_count(state, "encoder.down.0.block."),
        decoder_blocks=_count(state, "decoder.up.0.block."),
        latent_channels=latent_channels,
        scale_factor=scale_factor,
        groups=groups,
    )


def check_state(path: Path, state: Mapping[str, Tensor], model: nn.Module) -> None:
    """:class:`CheckpointError` unless ``state`` has exactly the keys and shapes of ``model``."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    if missing or surplus:
        found = [f"{what} {_listed(keys)}" for what, keys in (("missing", missing), ("surplus", surplus)) if keys]
        raise CheckpointError(f"{path}: {' and '.join(found)}; expected exactly the {len(expected)} published keys")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, expected {shape} from the other weights; "
                "is it a checkpoint of another model?"
            )


def _shape(path: Path, state: Mapping[str, Tensor], key: str, dims: int) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"{path}: missing {key}; expected a state dict with the published keys")
    shape = tuple(state[key].shape)
    if len(shape) != dims or 0 in shape:
        raise CheckpointError(f"{path}: {key} has shape {shape}, expected {dims} dimensions, none of them empty")
    return shape


def _count(keys: Iterable[str], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, keys) if match), default=0)


def _listed(keys: list[str], most: int = 3) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
