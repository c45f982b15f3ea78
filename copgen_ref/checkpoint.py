"""Loading a checkpoint in the authors' layout: the network, the autoencoders, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..runtime.errors import CheckpointError, RequestError
from ..runtime.modalities import IMAGE_KEYS, get
from .autoencoder import Autoencoder
from .files import CheckpointFiles, find_checkpoint
from .network import CopgenNetwork
from .shapes import check_state, read_autoencoder_config, read_network_config
from .state_dicts import read_state_dict

__all__ = [
    "Checkpoint",
    "CheckpointFiles",
    "find_checkpoint",
    "load_autoencoder",
    "load_checkpoint",
    "load_network",
]

_Model = TypeVar("_Model", bound=nn.Module)


class _Autoencoders(dict[str, Autoencoder]):
    """Autoencoders by modality; indexing one that is absent says where it was looked for."""

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__((key, load_autoencoder(files, key)) for key in files.autoencoders)
        self._files = files

    def __missing__(self, key: str) -> Autoencoder:
        raise self._files.absence(key)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. ``autoencoders[key]`` raises :class:`CheckpointError` where that one is absent."""

    files: CheckpointFiles
    network: CopgenNetwork
    autoencoders: dict[str, Autoencoder]

    @property
    def missing(self) -> tuple[str, ...]:
        """Image modalities that cannot be encoded or decoded, in network order."""
        return self.files.missing

    def describe(self) -> str:
        """What the checkpoint is and what it cannot do, one fact a line."""
        config = self.network.config
        millions = sum(p.numel() for p in self.network.parameters()) / 1e6
        lines = [
            f"network: width {config.width}, depth {config.depth}, {config.heads} heads, {millions:.2f} M parameters",
            f"autoencoders: {len(self.autoencoders)} of {len(IMAGE_KEYS)}",
        ]
        if self.missing:
            lines.append(f"cannot be encoded or decoded: {', '.join(self.missing)}")
        return "\n".join(lines)


def load_checkpoint(folder: str | Path, *, num_heads: int | None = None) -> Checkpoint:
    """The network and all autoencoders below ``folder``, float32, on the CPU, for inference.

    ``num_heads`` goes before ``config.json``, and that before the table of published variants. Weights stay mapped to
    their files where the format allows, so that what is not used takes no memory: do not overwrite them in place while
    the model is in use. Raises :class:`CheckpointError` where a file is missing, damaged, or not the model it should
    be; autoencoders may be missing.
    """
    files = find_checkpoint(folder)
    return Checkpoint(files, load_network(files, num_heads=num_heads), _Autoencoders(files))


def load_network(files: CheckpointFiles, *, num_heads: int | None = None) -> CopgenNetwork:
    """The network alone, as in :func:`load_checkpoint`."""
    path = files.network_file()
    state = read_state_dict(path)
    heads = files.num_heads if num_heads is None else num_heads
    return _assemble(path, state, lambda: CopgenNetwork(read_network_config(path, state, heads)))


def load_autoencoder(files: CheckpointFiles, key: str) -> Autoencoder:
    """The autoencoder of one modality alone, as in :func:`load_checkpoint`."""
    path = files.autoencoder_file(key)
    state = read_state_dict(path)
    scale_factor = files.scale_factors.get(key, get(key).scale_factor)
    return _assemble(
        path, state, lambda: Autoencoder(read_autoencoder_config(path, state, key, scale_factor, files.norm_groups))
    )


def _assemble(path: Path, state: dict[str, Tensor], build: Callable[[], _Model]) -> _Model:
    try:
        with torch.device("meta"):
            model = build()
    except CheckpointError:
        raise
    except RequestError as error:
        raise CheckpointError(f"{path}: {error}") from error
    check_state(path, state, model)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
