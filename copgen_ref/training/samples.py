"""Pictures of what a network under training draws, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...runtime.folders import whole_file
from ...runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, get
from ...runtime.noise import latent_noise
from ...runtime.raster.render import measure_limits, render
from ...runtime.schedule import TRAIN_STEPS
from ...runtime.solver import DEFAULT_SOLVER, make_plan, run_plan
from ...runtime.transforms import to_physical
from ..autoencoder import Autoencoder
from ..network import CopgenNetwork
from .compute import Compute

GIVEN = ("3d_cartesian_lat_lon", "DEM_DEM", "LULC_LULC", "mean_timestamps")
"""The conditions of the pictures; all else is drawn."""

_SHOWN = ("S2L2A_B02_B03_B04_B08", "S2L2A_B05_B06_B07_B11_B12_B8A", "S1RTC_vh_vv", "S2L1C_cloud_mask")
_TILE = 160


def sample_latents(
    network: CopgenNetwork,
    clean: NDArray[np.float32],
    given: tuple[str, ...],
    *,
    steps: int,
    seed: int,
    compute: Compute,
) -> NDArray[np.float32]:
    """Scaled joint latents (rows, 26118): the ``given`` modalities are those of ``clean``, all others are drawn."""
    plan = make_plan(DEFAULT_SOLVER, steps)
    noise = np.concatenate(
        [latent_noise(key, len(clean), seed=seed, purpose="initial").reshape(len(clean), -1) for key in KEYS], axis=1
    )
    moving = np.ones(JOINT_SIZE, bool)
    for key in given:
        moving[JOINT_SLICES[key]] = False
    state = np.where(moving, noise, clean).astype(np.float32)
    times = np.zeros((len(clean), len(KEYS)), np.float32)
    free = [i for i, key in enumerate(KEYS) if key not in given]

    def noise_at(k: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        state[:, moving] = x
        times[:, free] = plan.times[k] * TRAIN_STEPS
        with torch.inference_mode(), compute.autocast():
            tensors = (torch.from_numpy(a).to(compute.device) for a in (state, times))
            return network.forward_joint(*tensors).float().cpu().numpy()[:, moving]

    state[:, moving] = run_plan(plan, state[:, moving], noise_at)
    return state


def write_samples(
    path: Path,
    network: CopgenNetwork,
    autoencoders: Mapping[str, Autoencoder],
    clean: NDArray[np.float32],
    truth: Mapping[str, NDArray[np.generic]],
    *,
    compute: Compute,
    steps: int = 18,
) -> None:
    """Write a PNG: a row a patch of ``truth`` (physical, rows, C, H, W) whose scaled latents are ``clean``; in it
    elevation and cover, then for each of four modalities the truth and two draws given :data:`GIVEN`."""
    rows = len(clean)
    drawn = sample_latents(network, np.repeat(clean, 2, axis=0), GIVEN, steps=steps, seed=0, compute=compute)
    images: dict[str, NDArray[np.generic]] = {}
    for key in _SHOWN:
        latent = torch.from_numpy(drawn[:, JOINT_SLICES[key]].reshape(2 * rows, *get(key).latent_shape))
        with torch.inference_mode(), compute.autocast():
            decoded = autoencoders[key].decode(latent.to(compute.device)).float().cpu().numpy()
        images[key] = to_physical(key, decoded)
    sheet = []
    for row in range(rows):
        tiles = [_tile(key, truth[key][row], [truth[key][row]]) for key in ("DEM_DEM", "LULC_LULC")]
        for key in _SHOWN:
            shown = [truth[key][row], *images[key][2 * row : 2 * row + 2]]
            tiles += [_tile(key, image, shown[:1]) for image in shown]
        sheet.append(np.concatenate(tiles, axis=1))
    with whole_file(path) as partial:
        Image.fromarray(np.concatenate(sheet, axis=0)).save(partial, format="PNG")


def _tile(key: str, image: NDArray[np.generic], stretch: list[NDArray[np.generic]]) -> NDArray[np.uint8]:
    rgb = render(key, np.asarray(image), measure_limits([(key, np.stack(stretch))]))
    tile = np.asarray(Image.fromarray(rgb).resize((_TILE, _TILE), Image.Resampling.NEAREST))
    return np.pad(tile, ((0, 4), (0, 4), (0, 0)), constant_values=255)
