"""The light on slopes, which the network is asked for while it trains.

What elevation, place and date say together of a picture is the light on its slopes, a thirtieth of the variance of its
latents: too little for a short training to find, since it is a product of three conditions that first have to be
brought to one token. An output layer that is dropped in the end asks every token of reflectance for it, halfway through
the network; and at its end, the part of an error that lies along the light counts more than the rest. That part is told
by what is given alone, so the prediction with the least error stays the same.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import JOINT_SLICES, KEYS, MODALITIES, get
from ...runtime.raster.render import horn_gradient
from ...runtime.transforms import to_physical
from ..network import CopgenNetwork
from ..world.climate import sun_on
from ..world.surface import illumination
from .data import Arrays
from .quadrants import one_quadrant

LIGHT_KEYS = ("3d_cartesian_lat_lon", "DEM_DEM", "mean_timestamps")
"""What tells the light on slopes."""

LIGHT_SIDE = 24
_DARKEST = 0.1
_USUAL = 0.25
_CELLS = 2
_FAINT = 0.1
"""Standard deviation of the logarithm of the light below which errors along it count less and less."""


def light_on_slopes(compact: Arrays) -> NDArray[np.float16]:
    """Logarithm of the light on the ground over that on level ground, mean over the bands, from the place, elevation
    and date of compact patches: (rows, 24, 24), 80 m a pixel."""
    elevation = to_physical("DEM_DEM", np.asarray(compact["DEM_DEM"], np.float32))[:, 0]
    places, dates = (
        to_physical(key, np.asarray(compact[key], np.float32)) for key in ("3d_cartesian_lat_lon", "mean_timestamps")
    )
    rows = []
    for metres, place, day in zip(elevation, places, dates, strict=True):
        east, north = horn_gradient(metres, get("DEM_DEM").resolution)
        sun = sun_on(float(place[0]), date(*(int(part) for part in day)))
        rows.append(np.log(np.maximum(illumination(east, north, sun).mean(axis=0), _DARKEST)))
    fine = torch.from_numpy(np.stack(rows)).float()[:, None]
    # 64 pixels are no multiple of 24.
    even = torch.nn.functional.interpolate(fine, size=8 * LIGHT_SIDE, mode="bilinear")
    return torch.nn.functional.adaptive_avg_pool2d(even, LIGHT_SIDE)[:, 0].half().numpy()


class LightHead(torch.nn.Module):
    """What tells the light on the ground of a token, a quarter of it at a time, from what the middle block of
    ``network`` passed on in its last call."""

    def __init__(self, network: CopgenNetwork) -> None:
        super().__init__()
        self._config = network.config
        self._seen: list[Tensor] = []
        self.norm = torch.nn.LayerNorm(network.config.width)
        self.tell = torch.nn.Linear(network.config.width, _CELLS**2)
        torch.nn.init.zeros_(self.tell.weight)
        torch.nn.init.zeros_(self.tell.bias)
        network.mid_block.register_forward_hook(self._see)

    def _see(self, block: torch.nn.Module, given: tuple[Tensor, ...], stream: Tensor) -> None:
        if block.training:
            self._seen[:] = [stream]

    def error(self, light: Tensor, times: Tensor, quadrants: Tensor | None = None) -> Tensor:
        """Mean squared error of ``light`` (B, 24, 24) over tokens of reflectance, in units of 0.25, of rows in which
        place, elevation and date are given at ``times`` (B, 12); the others count as zeros. Of each row the network saw
        quadrant ``quadrants`` (B,), or all."""
        stream = self._seen.pop()
        errors = []
        first = len(MODALITIES)
        for m, patch, count in zip(MODALITIES, self._config.patch_sizes, self._config.patch_tokens, strict=True):
            side = m.latent_shape[1] // patch
            if quadrants is not None and m.is_image:
                count //= 4
            if m.kind == "reflectance":
                cells = _at(light, _CELLS * side) / _USUAL
                four = cells.reshape(-1, side, _CELLS, side, _CELLS).permute(0, 2, 4, 1, 3)
                wanted = four.reshape(-1, _CELLS**2, side, side)
                if quadrants is not None:
                    wanted = one_quadrant(wanted, quadrants)
                told = self.tell(self.norm(stream[:, first : first + count]))
                errors.append((told.float() - wanted.flatten(2).mT).square().mean(dim=(1, 2)))
            first += count
        return (torch.stack(errors).mean(dim=0) * _light_is_told(times)).mean()


def _light_is_told(times: Tensor) -> Tensor:
    """In which rows (B,) of ``times`` (B, 12) place, elevation and date are given."""
    return (times[:, [KEYS.index(key) for key in LIGHT_KEYS]] == 1).all(dim=1)


class LightOnLatents:
    """How latents of reflectance follow the light: one factor a channel, by least squares over the pixels of all
    patches, each about its mean, of scaled latents (rows, 26118) and the light (rows, 24, 24)."""

    def __init__(self, means: NDArray[np.float32], light: NDArray[np.float16]) -> None:
        lit = torch.from_numpy(light).float()
        self._factors: list[Tensor | None] = []
        for key, m in zip(KEYS, MODALITIES, strict=True):
            if m.kind != "reflectance":
                self._factors.append(None)
                continue
            pixels = _at(lit, m.latent_shape[1])
            about = _about_mean(pixels, torch.ones_like(pixels))
            latents = torch.from_numpy(means[:, JOINT_SLICES[key]]).reshape(-1, *m.latent_shape)
            found = torch.einsum("bchw,bhw->c", latents, about)
            self._factors.append(torch.nn.functional.normalize(found, dim=0))

    def directions(self, light: Tensor, times: Tensor, quadrants: Tensor | None = None) -> Tensor:
        """Directions of joint latents (B, 26118) along which the light on slopes moves them: of length 1 in each
        modality of reflectance, less where there is next to no contrast, 0 in rows that do not tell the light. Of each
        row they are about the mean of quadrant ``quadrants`` (B,), and 0 outside it; or about that of all."""
        told = _light_is_told(times)
        parts = []
        for m, factors in zip(MODALITIES, self._factors, strict=True):
            if factors is None:
                parts.append(light.new_zeros(len(light), m.latent_size))
                continue
            lit = _at(light, m.latent_shape[1])
            seen = torch.ones_like(lit) if quadrants is None else _quadrant_masks(quadrants, lit)
            about = _about_mean(lit, seen)
            length = (about.square() + seen * _FAINT**2).sum(dim=(1, 2)).sqrt()
            along = about * (told / length)[:, None, None]
            parts.append((factors.to(light.device)[:, None, None] * along[:, None]).flatten(1))
        return torch.cat(parts, dim=1)


def _at(light: Tensor, side: int) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(light, side)


def _about_mean(light: Tensor, seen: Tensor) -> Tensor:
    """``light`` (B, side, side) about its mean where ``seen`` is 1, 0 where that is 0."""
    mean = (light * seen).sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)
    return (light - mean) * seen


def _quadrant_masks(quadrants: Tensor, like: Tensor) -> Tensor:
    """1 in the quadrant of each row of ``like`` (B, side, side), else 0."""
    half = like.shape[1] // 2
    four = like.new_zeros(len(like), 2, half, 2, half)
    four[torch.arange(len(like), device=like.device), quadrants // 2, :, quadrants % 2] = 1
    return four.reshape(like.shape)
