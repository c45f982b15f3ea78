"""Where the files of a checkpoint lie, in the layout the authors publish; loads no torch.

Somewhere below one folder: the network's file (``*nnet_ema.pth`` or ``.safetensors``) and the autoencoders' folders by
their published names. What shapes cannot tell comes from an optional ``config.json`` at the root:
``{"num_heads": 4, "norm_groups": 4, "scale_factors": {"DEM_DEM": 0.5}, "weights": "random"}``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from ..runtime.errors import CheckpointError
from ..runtime.modalities import IMAGE_KEYS

NETWORK_SUFFIXES = ("nnet_ema.pth", "nnet_ema.safetensors")
WEIGHT_SUFFIXES = (".pth", ".safetensors")
CONFIG_NAME = "config.json"

AUTOENCODER_FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "DEM_DEM": "DEM_64x64_DEM_latent_8",
        "LULC_LULC": "LULC_192x192_LULC_latent_8",
        "S1RTC_vh_vv": "S1RTC_192x192_VV_VH_latent_8",
        "S2L1C_B01_B09_B10": "S2L1C_32x32_B1_9_10_latent_8",
        "S2L1C_B02_B03_B04_B08": "S2L1C_192x192_B4_3_2_8_latent_8",
        "S2L1C_B05_B06_B07_B11_B12_B8A": "S2L1C_96x96_B5_6_7_8A_11_12_latent_8",
        "S2L1C_cloud_mask": "S2L1C_192x192_cloud_mask_latent_8",
        "S2L2A_B01_B09": "S2L2A_32x32_B1_9_latent_8",
        "S2L2A_B02_B03_B04_B08": "S2L2A_192x192_B4_3_2_8_latent_8",
        "S2L2A_B05_B06_B07_B11_B12_B8A": "S2L2A_96x96_B5_6_7_8A_11_12_latent_8",
    }
)
"""The published folder of each autoencoder (hub repository ``mespinosami/copgen-vaes``)."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint, found but not read.

    ``autoencoders`` has those that are there, in network order. ``num_heads``, ``scale_factors``, ``weights`` (what
    kind they are: ``random`` says that they were never trained) and ``norm_groups`` (what an autoencoder normalises
    together) are what ``config.json`` gives, or its defaults.
    """

    root: Path
    network: Path | None
    autoencoders: Mapping[str, Path]
    num_heads: int | None = None
    scale_factors: Mapping[str, float] = field(default_factory=dict)
    weights: str = "checkpoint"
    norm_groups: int = 32

    def with_heads(self, num_heads: int | None) -> CheckpointFiles:
        """The same files with ``num_heads`` in place of what ``config.json`` gives; unchanged for None."""
        return self if num_heads is None else replace(self, num_heads=num_heads)

    @property
    def missing(self) -> tuple[str, ...]:
        """Image modalities without an autoencoder, in network order."""
        return tuple(key for key in IMAGE_KEYS if key not in self.autoencoders)

    def network_file(self) -> Path:
        """The network's file; :class:`CheckpointError` where there is none."""
        if self.network is None:
            raise CheckpointError(
                f"{self.root}: no network below it (a file named *{' or *'.join(NETWORK_SUFFIXES)}); "
                "give the folder that holds network and autoencoders"
            )
        return self.network

    def autoencoder_file(self, key: str) -> Path:
        """The file of the autoencoder of ``key``; :class:`CheckpointError` where there is none."""
        if key not in self.autoencoders:
            raise self.absence(key)
        return self.autoencoders[key]

    def absence(self, key: str) -> CheckpointError:
        """The error that says why ``key`` has no autoencoder here."""
        if key not in AUTOENCODER_FOLDERS:
            return CheckpointError(f"{key!r} has no autoencoder; those that have one are {', '.join(IMAGE_KEYS)}")
        return CheckpointError(
            f"{key} cannot be encoded or decoded: no *{' or *'.join(WEIGHT_SUFFIXES)} in a folder "
            f"{AUTOENCODER_FOLDERS[key]} anywhere below {self.root}; put its autoencoder there"
        )


def find_checkpoint(folder: str | Path) -> CheckpointFiles:
    """The files of the checkpoint below ``folder``, hidden folders left out and links followed.

    Raises :class:`CheckpointError` where there is nothing of COP-GEN, where two files could be the same component, and
    where ``config.json`` is damaged.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise CheckpointError(f"{root} is no folder; give the folder that holds the checkpoint")
    networks: list[Path] = []
    candidates: dict[str, list[Path]] = {key: [] for key in IMAGE_KEYS}
    by_folder = {name: key for key, name in AUTOENCODER_FOLDERS.items()}
    for path in _weight_files(root):
        if path.parent.name in by_folder:
            candidates[by_folder[path.parent.name]].append(path)
        elif path.name.endswith(NETWORK_SUFFIXES):
            networks.append(path)
    autoencoders = {key: _one(key, _averaged(paths)) for key, paths in candidates.items() if paths}
    if not networks and not autoencoders:
        raise CheckpointError(
            f"{root}: no COP-GEN weights below it; expected a file *{' or *'.join(NETWORK_SUFFIXES)} and folders such "
            f"as {AUTOENCODER_FOLDERS['DEM_DEM']}; 'copgen-edge weights fetch --out DIR' downloads them"
        )
    network = _one("the network", networks) if networks else None
    return CheckpointFiles(root, network, autoencoders, *_read_config(root / CONFIG_NAME))


def _weight_files(root: Path) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        raise CheckpointError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions")

    # Weights are often linked in from another disk; the set keeps a link to a folder above from looping.
    seen: set[Path] = set()
    for name, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        for file in sorted(files):
            if file.endswith(WEIGHT_SUFFIXES) and not file.startswith("."):
                yield folder / file


def _averaged(paths: list[Path]) -> list[Path]:
    return [path for path in paths if "ema" in path.stem] or paths


def _one(what: str, paths: list[Path]) -> Path:
    if len(paths) > 1:
        names = ", ".join(str(path) for path in paths)
        raise CheckpointError(f"{len(paths)} files could be {what}, expected one: {names}; keep one of them there")
    return paths[0]


def _read_config(path: Path) -> tuple[int | None, Mapping[str, float], str, int]:
    if not path.exists():
        return None, {}, "checkpoint", 32
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}); mend or delete it") from error
    if not isinstance(config, dict):
        raise CheckpointError(f'{path} holds a {type(config).__name__}, expected an object such as {{"num_heads": 16}}')
    heads = config.get("num_heads")
    groups = config.get("norm_groups")
    for name, count in (("num_heads", heads), ("norm_groups", groups)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise CheckpointError(f"{path}: {name} is {count!r}, expected a positive integer")
    scales = config.get("scale_factors", {})
    if not isinstance(scales, dict):
        raise CheckpointError(f'{path}: scale_factors is {scales!r}, expected an object such as {{"DEM_DEM": 0.5}}')
    for key, scale in scales.items():
        if key not in IMAGE_KEYS:
            raise CheckpointError(f"{path}: scale_factors names {key!r}, expected one of {', '.join(IMAGE_KEYS)}")
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not number or not math.isfinite(scale) or scale <= 0:
            raise CheckpointError(f"{path}: the scale factor of {key} is {scale!r}, expected a positive number")
    weights = config.get("weights", "checkpoint")
    if not isinstance(weights, str):
        raise CheckpointError(f'{path}: weights is {weights!r}, expected a word such as "random"')
    return heads, {key: float(scale) for key, scale in scales.items()}, weights, groups or 32
