"""The objective: noise added to every modality at a timestep of its own, and the error in finding it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import JOINT_SLICES, KEYS, MODALITIES
from ...runtime.schedule import TRAIN_STEPS, alpha, sigma
from .recipe import LATENT_STD

MAX_WEIGHT = 50.0

FIRST_CALL_WEIGHT = 0.5
"""What an error of one standard deviation of a latent counts in the rows of :func:`draw_first_calls`."""

ON_THE_GROUND = [KEYS.index(key) for key in ("3d_cartesian_lat_lon", "DEM_DEM", "LULC_LULC", "mean_timestamps")]
"""Indices of what maps and a calendar give: place, elevation, land cover and date."""

_GROUND_GIVEN, _GROUND_FROM = 0.92, 200
_ALSO_TOP, _ALSO_RADAR, _ALSO_CLOUDS = 0.15, 0.1, 0.3

_GRID = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS
SIGNAL, NOISE = torch.from_numpy(alpha(_GRID)), torch.from_numpy(sigma(_GRID))
"""Shares (1000,) of the latent and of the noise at the timesteps 1 to 1000, float64."""

_SCALAR_STD = 0.6
_STD = torch.tensor([LATENT_STD if m.is_image else _SCALAR_STD for m in MODALITIES], dtype=torch.float64)

_OF_MODALITY = torch.from_numpy(np.concatenate([np.full(m.latent_size, i, np.int64) for i, m in enumerate(MODALITIES)]))


def draw_latents(
    means: NDArray[np.float32], deviations: NDArray[np.float32], generator: torch.Generator | None = None
) -> Tensor:
    """Latents of the shape of ``means``, drawn from the posterior; from the global stream where there is no
    ``generator``."""
    mean = torch.from_numpy(means)
    return mean + torch.from_numpy(deviations) * torch.randn(mean.shape, generator=generator)


def diffuse(clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Joint latents ``clean`` (B, 26118) at discrete ``times`` (B, 12) in 1..1000, with ``noise`` of their shape."""
    signal, share = (table.float().to(clean.device) for table in (SIGNAL, NOISE))
    index = (times.long() - 1)[:, _OF_MODALITY.to(clean.device)]
    return signal[index] * clean + share[index] * noise


def draw_times(rows: int, sampled: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Timesteps (rows, 12) in 1..1000 and the weights (rows, 12) of their errors.

    All but ``sampled`` rows are the paper's: each modality has a timestep of its own, and all errors count alike. The
    others are what sampling meets and independent timesteps hardly ever are: modalities that are given are at 1, ones
    that are neither given nor asked for at 1000, and the rest shares one timestep. There only the rest counts, its
    error weighted by what it does to a latent of standard deviation s, (sigma / (s alpha))^2, from 1 to
    :data:`MAX_WEIGHT`.
    """
    times = torch.randint(1, TRAIN_STEPS + 1, (rows, len(KEYS)), generator=generator)
    weights = torch.ones(rows, len(KEYS))
    shared = torch.randint(1, TRAIN_STEPS + 1, (sampled, 1), generator=generator)
    given, absent = (torch.rand(sampled, len(KEYS), generator=generator) for _ in range(2))
    given_share, absent_share = (torch.rand(sampled, 1, generator=generator) for _ in range(2))
    is_given = given < given_share
    # In half of them nothing is absent.
    is_absent = ~is_given & (absent < absent_share - 0.5)
    times[:sampled] = torch.where(is_given, 1, torch.where(is_absent, TRAIN_STEPS, shared))
    weight = _weight(shared)
    weights[:sampled] = torch.where(is_given | is_absent, 0.0, weight)
    return times, weights


def draw_ground_times(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same for samples from place, elevation, land cover and date, each of which is given in most of the rows; in
    some of them, radar or top-of-atmosphere reflectance is given too, and in some the clouds, beside which the light on
    slopes is faint."""
    shared = torch.randint(_GROUND_FROM, TRAIN_STEPS + 1, (rows, 1), generator=generator)
    is_given = _given_on_the_ground(rows, generator)
    return torch.where(is_given, 1, shared), torch.where(is_given, 0.0, _weight(shared))


def draw_first_calls(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same for the first call of such a sample: what is not given is at 1000, its error weighted in full, by (sigma
    / (s alpha))^2 times :data:`FIRST_CALL_WEIGHT`.

    There an error of the noise, weighted as elsewhere, hardly shows what the latents were to be, and a network that
    learns by it alone finds what the noised truth still tells instead of what the date does.
    """
    is_given = _given_on_the_ground(rows, generator)
    full = FIRST_CALL_WEIGHT * _full_weight(TRAIN_STEPS)
    return torch.where(is_given, 1, TRAIN_STEPS), torch.where(is_given, 0.0, full.float())


def without_trace(clean: Tensor, times: Tensor, noise: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Noised latents and the noise that is to be found in them, both (B, 26118).

    They are :func:`diffuse`'s and ``noise``, but in ``rows`` what is at 1000 is ``noise`` alone, as where sampling
    starts, and the noise to be found is what would leave ``clean`` there.
    """
    noisy, wanted = diffuse(clean, times, noise), noise.clone()
    at_top = (times[rows] == TRAIN_STEPS)[:, _OF_MODALITY.to(clean.device)]
    noisy[rows] = torch.where(at_top, noise[rows], noisy[rows])
    left = (noise[rows] - float(SIGNAL[-1]) * clean[rows]) / float(NOISE[-1])
    wanted[rows] = torch.where(at_top, left, noise[rows])
    return noisy, wanted


def _given_on_the_ground(rows: int, generator: torch.Generator) -> Tensor:
    is_given = torch.zeros(rows, len(KEYS), dtype=torch.bool)
    is_given[:, ON_THE_GROUND] = torch.rand(rows, len(ON_THE_GROUND), generator=generator) < _GROUND_GIVEN
    also = torch.rand(rows, 1, generator=generator)
    is_given |= (also < _ALSO_TOP) & torch.tensor([m.family == "S2L1C" and not m.is_codes for m in MODALITIES])
    is_given |= (also > 1 - _ALSO_RADAR) & torch.tensor([m.family == "S1RTC" for m in MODALITIES])
    clouds = torch.rand(rows, 1, generator=generator) < _ALSO_CLOUDS
    is_given |= clouds & torch.tensor([m.family == "cloud_mask" for m in MODALITIES])
    return is_given


def _weight(times: Tensor) -> Tensor:
    """What errors of the noise at ``times`` (rows, 1) do to the latents (rows, 12), at most :data:`MAX_WEIGHT`."""
    return _full_weight(times).clamp(1, MAX_WEIGHT).float()


def _full_weight(times: Tensor | int) -> Tensor:
    return ((NOISE / SIGNAL)[times - 1] / _STD).square()


def modality_losses(
    predicted: Tensor, noise: Tensor, weights: Tensor | None = None, along: Tensor | None = None
) -> Tensor:
    """Mean squared error of each modality (12,) over joint arrays (B, 26118), whose rows count by ``weights`` (B, 12).
    The objective is their sum (COP-GEN, arXiv 2603.03239, section 3). Errors along the directions ``along`` (B, 26118)
    count once more, by the square of their length."""
    wrong = predicted - noise
    each = []
    for key in KEYS:
        part = wrong[:, JOINT_SLICES[key]]
        error = part.square().mean(dim=1)
        if along is not None:
            error = error + (part * along[:, JOINT_SLICES[key]]).sum(dim=1).square() / part.shape[1]
        each.append(error)
    losses = torch.stack(each, dim=1)
    return (losses if weights is None else losses * weights).mean(dim=0)
