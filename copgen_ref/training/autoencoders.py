"""Training one small autoencoder: reconstruction and a weak pull of the latent towards a standard normal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import KEYS, Modality, get
from ...runtime.raster.render import horn_gradient
from ...runtime.transforms import image_to_physical
from ..autoencoder import LOGVAR_RANGE, Autoencoder
from .compute import Compute, learning_rate
from .data import crops, to_tensor
from .recipe import AutoencoderRecipe, autoencoder_config

_FIRST_LOG_VARIANCE = -6.0
_BRANCH_GAIN = 0.3
_SLOPE_WEIGHTS = {"elevation": 5.0, "reflectance": 2.0}
_RELIEF_UNITS, _RELIEF_WEIGHT = (0.1, 0.1, 500.0), 0.1
_ROWS = 4

Report = Callable[[int, float], None]
"""Called as report(step, loss) after each step."""


def new_autoencoder(key: str, seed: int) -> Autoencoder:
    """An untrained autoencoder of modality ``key``; the same ``seed`` gives the same weights.

    Weights keep the variance, with little from each residual branch at first. Where a normalisation follows at once,
    biases start wide: against them the brightness of a whole image shows, which a group of channels that start alike
    loses, and which then takes hundreds of steps to learn.
    """
    m = get(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * len(KEYS) + KEYS.index(key))
        autoencoder = Autoencoder(autoencoder_config(m.channels, m.size))
        for name, module in autoencoder.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                branch_end = name.endswith(("conv2", "proj_out"))
                gain = _BRANCH_GAIN if branch_end else 1.0
                torch.nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
                if name.endswith(("conv_in", "conv1")) and module.bias is not None:
                    torch.nn.init.normal_(module.bias)
    # A posterior as wide as the prior would drown the signal of an untrained encoder for hundreds of steps.
    with torch.no_grad():
        autoencoder.get_parameter("quant_conv.bias")[autoencoder.config.latent_channels :] = _FIRST_LOG_VARIANCE
    return autoencoder


def train_autoencoder(
    key: str,
    autoencoder: Autoencoder,
    images: Mapping[str, NDArray[np.generic]],
    recipe: AutoencoderRecipe,
    *,
    seed: int,
    compute: Compute,
    report: Report,
) -> Autoencoder:
    """Train ``autoencoder`` in place on ``images[key]`` (rows, C, H, W; compact) and return it, for inference.

    The loss is L1 + 2 MSE (and 5 times the L1 of slopes for elevation, 2 times for reflectance), for codes MSE on their
    one-hot planes, plus ``kl_weight`` times the KL divergence a latent element (Kingma and Welling, 2014; Rombach et
    al., 2022). The first channels of the latent of elevation are to be its :func:`relief`.
    """
    m = get(key)
    compute = compute.for_kind(m.kind)
    model = autoencoder.to(compute.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    whole_from = round(recipe.steps * (1 - recipe.whole_share))
    whole_batch = max(1, recipe.batch * recipe.crop**2 // m.size**2)
    for step in range(recipe.steps):
        # Each step has its own stream, so that what is drawn does not depend on what ran before.
        rng = np.random.default_rng([seed, KEYS.index(key), step])
        noise_seed = int(rng.integers(2**62))
        batch, crop = (recipe.batch, recipe.crop) if step < whole_from else (whole_batch, m.size)
        image = crops(key, images, batch, crop, rng).to(compute.device)
        with compute.autocast():
            moments = model.encode_moments(image)
            mean, log_variance = moments.chunk(2, dim=1)
            log_variance = log_variance.clamp(*LOGVAR_RANGE)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(noise_seed)).to(compute.device)
            found = model.decode(mean + torch.exp(log_variance / 2) * noise)
        loss = _distance(m, found, image) + recipe.kl_weight * _kl(mean, log_variance)
        if m.kind == "elevation":
            wanted = relief(m, image).to(compute.device)
            loss = loss + _RELIEF_WEIGHT * (mean[:, : wanted.shape[1]] - wanted).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.steps, recipe.learning_rate, recipe.warm_up, 0.03)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step + 1, float(loss.detach()))
    return model.eval().requires_grad_(False)


def _distance(m: Modality, found: Tensor, image: Tensor) -> Tensor:
    difference = found - image
    # The square finds the brightness of a whole image early, where L1 alone rests on the median of all images.
    square = difference.square().mean()
    if m.is_codes:
        return square
    loss = difference.abs().mean() + 2 * square
    if m.kind in _SLOPE_WEIGHTS:
        # Relief is small beside the height it stands on, and fields and forests beside clouds.
        loss = loss + _SLOPE_WEIGHTS[m.kind] * sum(difference.diff(dim=dim).abs().mean() for dim in (2, 3))
    return loss


def relief(m: Modality, image: Tensor) -> Tensor:
    """Slope toward the east and toward the north, and elevation, of ``image`` (B, 1, H, W) in model space:
    the means (B, 3, H / 8, W / 8) over the pixels of a latent pixel, in units of 0.1 m/m and 500 m.

    Model space is logarithmic: a slope is there the product of a height and a difference, both of them curved in the
    latent, and a network that is to learn from it how slopes are lit, or how high snow lies, does not.
    """
    metres = image_to_physical(m.key, image.cpu().numpy())[:, 0]
    planes = np.stack([[*horn_gradient(one, m.resolution), one] for one in metres])
    rows, channels, height, width = planes.shape
    side = m.size // m.latent_shape[1]
    means = planes.reshape(rows, channels, height // side, side, width // side, side).mean(axis=(3, 5))
    return torch.from_numpy(means / np.array(_RELIEF_UNITS, np.float32)[:, None, None])


def _kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def encode(
    autoencoders: Mapping[str, Autoencoder], images: Mapping[str, NDArray[np.generic]], compute: Compute
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Mean and standard deviation of the unscaled latents of compact ``images`` (rows of all twelve modalities), as
    joint arrays (rows, 26118) float16; a scalar is its own mean, with no deviation."""
    means, deviations = [], []
    for key in KEYS:
        values = to_tensor(key, images[key])
        if key in autoencoders:
            with torch.inference_mode(), compute.for_kind(get(key).kind).autocast():
                # Few rows at a time stay in the caches.
                batches = values.split(_ROWS)  # type: ignore[no-untyped-call]
                parts = [autoencoders[key].encode_moments(batch.to(compute.device)) for batch in batches]
                moments = torch.cat(parts).float().cpu()
            mean, log_variance = moments.chunk(2, dim=1)
            deviation = torch.exp(log_variance.clamp(*LOGVAR_RANGE) / 2)
        else:
            mean, deviation = values, torch.zeros_like(values)
        means.append(mean.reshape(len(mean), -1).numpy())
        deviations.append(deviation.reshape(len(mean), -1).numpy())
    return np.concatenate(means, axis=1).astype(np.float16), np.concatenate(deviations, axis=1).astype(np.float16)
