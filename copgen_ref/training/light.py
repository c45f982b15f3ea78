"""The light on slopes, which the network is asked for while it trains.

What elevation, place and date say together of a picture is the light on its slopes, a thirtieth of the variance of its
latents: too little for a short training to find, since it is a product of three conditions that first have to be
brought to one token. An output layer that is dropped in the end asks every token of reflectance for it, halfway through
the network.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import KEYS, MODALITIES, get
from ...runtime.raster.render import horn_gradient
from ...runtime.transforms import to_physical
from ..network import CopgenNetwork
from ..world.climate import sun_on
from ..world.surface import illumination
from .data import Arrays

LIGHT_KEYS = ("3d_cartesian_lat_lon", "DEM_DEM", "mean_timestamps")
"""What tells the light on slopes."""

LIGHT_SIDE = 24
_DARKEST = 0.1
_USUAL = 0.25
_CELLS = 2


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
                cells = torch.nn.functional.adaptive_avg_pool2d(light, _CELLS * side) / _USUAL
                wanted = cells.reshape(-1, side, _CELLS, side, _CELLS).transpose(2, 3).flatten(3)
                if quadrants is not None:
                    four = wanted.reshape(-1, 2, side // 2, 2, side // 2, _CELLS**2)
                    wanted = four[torch.arange(len(four), device=four.device), quadrants // 2, :, quadrants % 2]
                told = self.tell(self.norm(stream[:, first : first + count]))
                errors.append((told.float() - wanted.flatten(1, 2)).square().mean(dim=(1, 2)))
            first += count
        given = (times[:, [KEYS.index(key) for key in LIGHT_KEYS]] == 1).all(dim=1)
        return (torch.stack(errors).mean(dim=0) * given).mean()
