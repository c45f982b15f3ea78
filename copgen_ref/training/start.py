"""How the network starts: as the best linear denoiser of single patches, which then learns the rest.

Predicting noise is unforgiving at high t: at t = 1000 the signal is 7 % of the input, so that an error of 0.005 in the
noise hides all of it. A network that must first find out how to copy its input and how to scale it by t spends the
whole of a short training on that. Here its first weights are made from the latents themselves instead: embeddings are
their principal components, one attention head brings each patch the time of its modality, hidden units of two blocks
apply the gains of a Wiener filter, which depend on t alone, and the output layers are fitted by ridge regression. The
other heads start by looking at the same ground in one other modality each. It is a start: all of it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import JOINT_SLICES, KEYS, MODALITIES, Modality
from ...runtime.schedule import TRAIN_STEPS, alpha, sigma
from ..network import CopgenNetwork, NetworkConfig, split_joint
from .diffusion import diffuse

# Lengths of what a token holds beside its content, which has variance 1 a direction at t = 1000. The steady part is by
# far the longest: against it the layer norms of a post-norm network, which divide by a token's length, are all but
# linear in the content.
_STEADY, _CODE, _PLACE, _TIME = 30.0, 4.0, 8.0, 5.0
_USUAL_CONTENT = 100.0

_BRANCH_STD = 0.002
_TIME_LOGIT, _MODALITY_LOGIT, _PLACE_SHARPNESS, _TOKEN_LOGIT = 13.0, 8.0, 4.0, 20.0

# Gains are sums of four soft steps over the logarithm of the signal-to-noise ratio, halved and clipped.
_STEPS = (-1.2, 0.0, 1.2, 2.4)
_SLOPE = 1.3
_CLIP = 3.0
_PROBE = 0.4

_GRID = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS
_SIGNAL, _NOISE = torch.from_numpy(alpha(_GRID)), torch.from_numpy(sigma(_GRID))
_LOG_RATIO = (_SIGNAL / _NOISE).log().clamp(-_CLIP, _CLIP)

_FIT_BATCHES, _FIT_BATCH, _RIDGE = 48, 16, 3e-3
_COVARIANCE_ROWS = 1024

_LOOKS: tuple[tuple[str, int | None], ...] = (
    ("LULC_LULC", None),
    ("S2L2A_B02_B03_B04_B08", None),
    ("S2L1C_B02_B03_B04_B08", None),
    ("S1RTC_vh_vv", None),
    ("S2L1C_cloud_mask", None),
    ("mean_timestamps", 0),
    ("mean_timestamps", 1),
    ("LULC_LULC", None),
    ("S2L2A_B02_B03_B04_B08", None),
    ("S2L1C_B02_B03_B04_B08", None),
    ("DEM_DEM", None),
    ("S1RTC_vh_vv", None),
    ("S2L1C_cloud_mask", None),
    ("S2L2A_B05_B06_B07_B11_B12_B8A", None),
    ("S2L1C_B05_B06_B07_B11_B12_B8A", None),
    ("3d_cartesian_lat_lon", 2),
    ("S2L2A_B01_B09", None),
)
"""What the heads look at first, from the first block on: the same place in a modality, or one token of a scalar."""


@dataclass(frozen=True)
class _Stream:
    """Orthonormal directions (width, n) of the token stream, none of which a layer norm's mean touches."""

    content: Tensor
    estimate: Tensor
    place: Tensor
    clock: Tensor
    modality: Tensor
    time: Tensor
    steady: Tensor


def linear_start(
    config: NetworkConfig, means: NDArray[np.float32], deviations: NDArray[np.float32], seed: int
) -> CopgenNetwork:
    """A network for scaled joint latents (rows, 26118), given as mean and standard deviation of their posterior; the
    same ``seed`` gives the same weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = CopgenNetwork(config)
        _small_random(network)
        stream = _directions(network)
        codes = torch.eye(len(KEYS), stream.modality.shape[1], dtype=torch.float64)
        if stream.modality.shape[1] < len(KEYS):
            codes = torch.nn.functional.normalize(torch.randn_like(codes), dim=1)
        places = _places(config, stream.place.shape[1])
        own = [_STEADY * stream.steady.T + _CODE * code[None] @ stream.modality.T for code in codes]
        tokens = [own[i] + place @ stream.place.T for i, place in enumerate(places)]
        network.pos_embed.copy_(torch.cat([_CODE * codes @ stream.clock.T, *tokens])[None])
        variances = _embed(network, stream, _draw(means[:_COVARIANCE_ROWS], deviations[:_COVARIANCE_ROWS]))
        shrink = math.sqrt(
            config.width / (_STEADY**2 + _CODE**2 + _PLACE**2 + _TIME**2 + min(_USUAL_CONTENT, config.width))
        )
        first, last = network.in_blocks[0], network.out_blocks[-1]
        _read_time(network, stream)
        _gate(first, stream, shrink, variances, lambda v, var: -_SIGNAL * v / var)
        _gate(last, stream, shrink, variances, lambda v, var: (_NOISE + _SIGNAL * v) / var - 1)
        looks = iter(_LOOKS * (1 + (config.depth + 1) * config.heads // len(_LOOKS)))
        for block in (*network.in_blocks, network.mid_block, *network.out_blocks):
            scale = 1.0 if block is first else shrink
            values = stream.content if block is first else stream.estimate
            for head in range(1 if block is first else 0, config.heads):
                key, token = next(looks)
                i = KEYS.index(key)
                weights = _head(block, head, config.heads)
                _look(weights, stream, scale, codes[i], None if token is None else places[i][token], values)
        _fit_outputs(network, means, deviations)
    return network


def _small_random(network: CopgenNetwork) -> None:
    """Blocks that pass their input on, but for a little noise to learn from."""
    width = network.config.width
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            branch_end = name.endswith(("attn.proj", "mlp.fc2", "skip_linear"))
            torch.nn.init.trunc_normal_(module.weight, std=_BRANCH_STD if branch_end else 0.02)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    half = torch.eye(width) / 2
    for block in network.out_blocks:
        block.get_parameter("skip_linear.weight").add_(torch.cat([half, half], dim=1))


def _clocks(network: CopgenNetwork) -> Tensor:
    """The time tokens (1000, width) of all timesteps."""
    steps = torch.arange(1, TRAIN_STEPS + 1).float()[:, None].expand(-1, len(KEYS))
    return network.time_tokens(steps)[:, 0].double()


def _directions(network: CopgenNetwork) -> _Stream:
    width = network.config.width
    ones = torch.full((width, 1), width**-0.5, dtype=torch.float64)
    clocks = _clocks(network)
    clocks = clocks - clocks @ ones @ ones.T
    by_energy = torch.linalg.eigh(clocks.T @ clocks).eigenvectors.flip(1)
    basis = torch.linalg.qr(torch.cat([ones, by_energy], dim=1)).Q[:, 1:width]
    # Content may lie where time tokens do, since no token has both; codes, by which heads tell tokens, must not.
    content = width // 3
    left = width - 1 - 2 * content
    code = min(len(KEYS), (left - 3) // 4)
    place = min(48, (left - 3 - 2 * code) // 4 * 4)
    free = left - 3 - 2 * code - place
    parts = basis.split([content, content, free, place, code, code, 2, 1], dim=1)  # type: ignore[no-untyped-call]
    return _Stream(parts[0], parts[1], *parts[3:])


def _places(config: NetworkConfig, size: int) -> list[Tensor]:
    """Where the tokens (tokens, size) of each modality lie on the ground: sines and cosines of their centres, so that
    tokens of one place are alike across modalities; those of a scalar lie nowhere and differ."""
    frequencies = 2 * math.pi * 2.0 ** torch.linspace(-2, 1.6, size // 4, dtype=torch.float64)
    places = []
    for m, patch in zip(MODALITIES, config.patch_sizes, strict=True):
        if not m.is_image:
            anywhere = torch.randn(math.prod(m.latent_shape[1:]), size, dtype=torch.float64)
            places.append(_PLACE * torch.nn.functional.normalize(anywhere, dim=1))
            continue
        side = m.latent_shape[1] // patch
        angles = (torch.arange(side, dtype=torch.float64)[:, None] + 0.5) / side * frequencies
        axis = torch.cat([angles.sin(), angles.cos()], dim=1)
        down, right = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
        both = torch.cat([down, right], dim=-1).reshape(side * side, size)
        places.append(_PLACE * torch.nn.functional.normalize(both, dim=1))
    return places


def _draw(means: NDArray[np.float32], deviations: NDArray[np.float32]) -> Tensor:
    mean = torch.from_numpy(means)
    return mean + torch.from_numpy(deviations) * torch.randn(mean.shape)


def _patches(latents: Tensor, m: Modality, patch: int) -> Tensor:
    """Joint latents (B, 26118) to patches (B, tokens, channels * rows * columns) of one modality."""
    channels, height, width = m.latent_shape
    grid = latents[:, JOINT_SLICES[m.key]].reshape(-1, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(len(latents), -1, channels * patch * patch)


def _embed(network: CopgenNetwork, stream: _Stream, latents: Tensor) -> Tensor:
    """Embed patches by their principal components, the strongest first, and return the usual variance of each content
    direction: the geometric mean over the image modalities."""
    size = stream.content.shape[1]
    logs, counts = torch.zeros(2, size, dtype=torch.float64)
    for embed, m, patch in zip(network.patch_embeds, MODALITIES, network.config.patch_sizes, strict=True):
        rows = _patches(latents, m, patch).flatten(0, 1).double()
        variances, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
        variances, axes = variances.flip(0).clamp(1e-3), axes.flip(1)
        kept = min(len(variances), size)
        # Fewer components are spread, so that equal directions have like variances in all modalities.
        at = (torch.arange(kept) * size) // kept if kept > 1 else torch.tensor([size // 3])
        weight = embed.get_parameter("proj.weight")
        weight.copy_((stream.content[:, at] @ axes[:, :kept].T).reshape(weight.shape))
        torch.nn.init.zeros_(embed.get_parameter("proj.bias"))
        if m.is_image:
            logs[at] += variances[:kept].log()
            counts[at] += 1
    return (logs / counts.clamp(1)).exp()


def _head(block: torch.nn.Module, head: int, heads: int) -> Tensor:
    """The query, key and value weights (3, head_dim, width) of a head, to be written to."""
    weight = block.get_parameter("attn.qkv.weight")
    return weight.view(3, heads, -1, weight.shape[1])[:, head]


def _read_time(network: CopgenNetwork, stream: _Stream) -> None:
    """Let head 0 of the first block bring every token the log signal-to-noise ratio and t of its modality."""
    block = network.in_blocks[0]
    query, key, value = _head(block, 0, network.config.heads)
    head_dim = len(query)
    gain = math.sqrt(_TIME_LOGIT * math.sqrt(head_dim)) / _CODE
    size = min(stream.modality.shape[1], head_dim)
    for part, code in ((query, stream.modality), (key, stream.clock)):
        part.zero_()
        part[:size] = gain * code[:, :size].T
    clocks = _clocks(network)
    wanted = torch.stack([_LOG_RATIO / _CLIP, torch.linspace(-1, 1, TRAIN_STEPS, dtype=torch.float64)], dim=1)
    ridge = 1e-5 * TRAIN_STEPS * torch.eye(clocks.shape[1], dtype=torch.float64)
    readout = torch.linalg.solve(clocks.T @ clocks + ridge, clocks.T @ wanted)
    value[:2] = (readout - stream.clock @ (stream.clock.T @ readout)).T
    shown = block.get_parameter("attn.proj.weight")
    shown[:, :head_dim] = 0
    shown[:, :2] = _TIME * stream.time


def _gate(
    block: torch.nn.Module, stream: _Stream, shrink: float, variances: Tensor, gain: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Let hidden units of ``block`` add the content, times ``gain(variance, variance of the input)`` (1000,), to the
    estimate.

    GELU(z + x) - GELU(z - x) is 2 x times the slope of GELU at z, which goes from 0 to 1 as z, made from the time,
    goes from below to above zero: a gain that depends on t alone.
    """
    first, bias, second = (block.get_parameter(f"mlp.{name}") for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    count = stream.content.shape[1]
    probe, by_time = _PROBE / shrink, _SLOPE * _CLIP / (_TIME * shrink)
    steps = torch.stack([_gelu_slope(_SLOPE * (_LOG_RATIO - step)) for step in _STEPS], dim=1)
    weights = []
    for variance in variances:
        total = _SIGNAL.square() * variance + _NOISE.square()
        weighted = steps * total[:, None]
        normal = weighted.T @ steps + 1e-3 * len(steps) * torch.eye(len(_STEPS), dtype=torch.float64)
        weights.append(torch.linalg.solve(normal, weighted.T @ gain(variance, total)))
    for j, (step, weight) in enumerate(zip(_STEPS, torch.stack(weights, dim=1), strict=True)):
        for side, sign in enumerate((1, -1)):
            units = slice((2 * j + side) * count, (2 * j + side + 1) * count)
            first[units] = (sign * probe * stream.content + by_time * stream.time[:, :1]).T.float()
            bias[units] = -_SLOPE * step
            second[:, units] = (sign * stream.estimate * weight / (2 * probe)).float()


def _gelu_slope(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _look(
    weights: Tensor,
    stream: _Stream,
    scale: float,
    code: Tensor,
    token: Tensor | None,
    values: Tensor,
) -> None:
    """Let a head look at the modality of ``code``, at the token's own place or that of ``token``, in a stream
    that earlier norms have multiplied by ``scale``."""
    weights.zero_()
    query, key, value = weights
    root = math.sqrt(len(query))
    coded = min(len(code), len(query) // 2)
    placed = min(stream.place.shape[1], len(query) - coded)
    steady = stream.steady.T * root / (_STEADY * scale)
    key[:placed] = stream.place[:, :placed].T
    if token is None:
        query[:placed] = _PLACE_SHARPNESS / scale**2 * stream.place[:, :placed].T
    else:
        query[:placed] = token[:placed, None] * steady * (_TOKEN_LOGIT / (_PLACE**2 * scale))
    query[placed : placed + coded] = code[:coded, None] * steady * _MODALITY_LOGIT
    key[placed : placed + coded] = stream.modality[:, :coded].T / (_CODE * scale)
    shown = min(len(value), values.shape[1])
    value[:shown] = values[:, :shown].T


def _fit_outputs(network: CopgenNetwork, means: NDArray[np.float32], deviations: NDArray[np.float32]) -> None:
    """Fit the output layers to noise by ridge regression on what the blocks make of noisy latents."""
    config = network.config
    size = config.width + 1
    normal = [torch.zeros(size, size, dtype=torch.float64) for _ in KEYS]
    moment = [
        torch.zeros(size, patch * patch * m.latent_shape[0], dtype=torch.float64)
        for m, patch in zip(MODALITIES, config.patch_sizes, strict=True)
    ]
    counts = [0] * len(KEYS)
    for _ in range(_FIT_BATCHES):
        rows = torch.randint(len(means), (_FIT_BATCH,)).numpy()
        clean = _draw(means[rows], deviations[rows])
        noise = torch.randn(clean.shape)
        times = torch.randint(1, TRAIN_STEPS + 1, (_FIT_BATCH, len(KEYS)))
        shown = network.transform(split_joint(diffuse(clean, times, noise)), times.float(), network.pos_embed)
        for i, (m, patch, tokens) in enumerate(zip(MODALITIES, config.patch_sizes, shown, strict=True)):
            features = torch.nn.functional.pad(tokens.flatten(0, 1), (0, 1), value=1.0).double()
            wanted = _patches(noise, m, patch).flatten(0, 1)
            # The output layer has the channels last.
            wanted = wanted.reshape(-1, m.latent_shape[0], patch * patch).transpose(1, 2).flatten(1).double()
            normal[i] += features.T @ features
            moment[i] += features.T @ wanted
            counts[i] += len(features)
    for i, head in enumerate(network.decoder_preds):
        ridge = _RIDGE * counts[i] * torch.eye(size, dtype=torch.float64)
        fitted = torch.linalg.solve(normal[i] + ridge, moment[i])
        head.get_parameter("weight").copy_(fitted[:-1].T)
        head.get_parameter("bias").copy_(fitted[-1])
