"""How the network starts: as the best linear denoiser of single patches, which then learns the rest.

Predicting noise is unforgiving at high t: at t = 1000 the signal is 7 % of the input, so that an error of 0.005 in the
noise hides all of it. A network that must first find out how to copy its input and how to scale it by t spends the
whole of a short training on that. Here its first weights are made from the latents themselves instead: embeddings are
their principal components, one attention head brings each patch the time of its modality, hidden units of two blocks
apply the gains of a Wiener filter, which depend on t alone, and the output layers are fitted by ridge regression, in
which the land cover of a place, gated alike, has its part. The other heads start by looking at neighbours, or at the
same ground in one other modality each. It is a start: all of it is trained.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import KEYS, MODALITIES
from ...runtime.schedule import TRAIN_STEPS
from ..network import CopgenNetwork, NetworkConfig, patchify, split_joint
from .diffusion import NOISE, SIGNAL, diffuse, draw_latents
from .looks import point_heads, read_time
from .stream import TIME, Stream, lay_out

_BRANCH_STD = 0.002

# Gains are sums of four soft steps over the logarithm of the signal-to-noise ratio, halved and clipped.
_STEPS = (-0.9, 0.3, 1.5, 2.7)
_SLOPE = 1.3
_CLIP = 3.0
_PROBE = 0.4

_LOG_RATIO = (SIGNAL / NOISE).log().clamp(-_CLIP, _CLIP)

_FIT_BATCHES, _FIT_BATCH, _RIDGE = 48, 16, 3e-3
_COVARIANCE_ROWS = 1024


def linear_start(
    config: NetworkConfig, means: NDArray[np.float32], deviations: NDArray[np.float32], seed: int
) -> CopgenNetwork:
    """A network for scaled joint latents (rows, 26118), given as mean and standard deviation of their posterior; the
    same ``seed`` gives the same weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = CopgenNetwork(config)
        _small_random(network)
        stream = lay_out(network)
        network.pos_embed.copy_(stream.positions()[None])
        variances = _embed(network, stream, draw_latents(means[:_COVARIANCE_ROWS], deviations[:_COVARIANCE_ROWS]))
        read_time(
            network, stream, torch.stack([_LOG_RATIO / _CLIP, torch.linspace(-1, 1, TRAIN_STEPS).double()], dim=1)
        )
        first, last = network.in_blocks[0], network.out_blocks[-1]
        totals = [(v, SIGNAL.square() * v + NOISE.square()) for v in variances]
        _gate(first, stream, stream.content, stream.estimate, [-SIGNAL * v / total for v, total in totals])
        noise = [(NOISE + SIGNAL * v) / total - 1 for v, total in totals]
        _gate(last, stream, stream.content, stream.estimate, noise)
        known = [-SIGNAL * NOISE / total for _, total in totals[: stream.cover.shape[1]]]
        # A narrow network has no room for it.
        if known:
            _gate(last, stream, stream.cover, stream.counted, known, 2 * len(_STEPS) * len(variances))
        point_heads(network, stream)
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


def _embed(network: CopgenNetwork, stream: Stream, latents: Tensor) -> Tensor:
    """Embed patches by their principal components, the strongest first, and return the usual variance of each content
    direction: the geometric mean over the image modalities."""
    size = stream.content.shape[1]
    logs, counts = torch.zeros(2, size, dtype=torch.float64)
    for embed, m, latent, patch in zip(
        network.patch_embeds, MODALITIES, split_joint(latents), network.config.patch_sizes, strict=True
    ):
        rows = patchify(latent, patch).flatten(0, 1).double()
        variances, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
        variances, axes = variances.flip(0).clamp(1e-3), axes.flip(1)
        at = stream.components(len(variances))
        kept = len(at)
        weight = embed.get_parameter("proj.weight")
        components = stream.content[:, at] @ axes[:, :kept].T
        # The embedding has the channels first.
        weight.copy_(components.reshape(-1, patch, patch, m.latent_shape[0]).permute(0, 3, 1, 2))
        torch.nn.init.zeros_(embed.get_parameter("proj.bias"))
        if m.is_image:
            logs[at] += variances[:kept].log()
            counts[at] += 1
    return (logs / counts.clamp(1)).exp()


def _gate(
    block: torch.nn.Module, stream: Stream, read: Tensor, write: Tensor, gains: list[Tensor], first_unit: int = 0
) -> None:
    """Let hidden units of ``block``, from ``first_unit`` on, read directions ``read`` (width, n) of the stream and add
    them, times ``gains``, (1000,) each, to directions ``write``.

    GELU(z + x) - GELU(z - x) is 2 x times the slope of GELU at z, which goes from 0 to 1 as z, made from the time,
    goes from below to above zero: a gain that depends on t alone.
    """
    first, bias, second = (block.get_parameter(f"mlp.{name}") for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    count = read.shape[1]
    probe, by_time = _PROBE / stream.shrunk, _SLOPE * _CLIP / (TIME * stream.shrunk)
    steps = torch.stack([_gelu_slope(_SLOPE * (_LOG_RATIO - step)) for step in _STEPS], dim=1)
    # Timesteps count alike, whatever the size of what is gated.
    normal = steps.T @ steps + 1e-3 * len(steps) * torch.eye(len(_STEPS), dtype=torch.float64)
    weights = torch.linalg.solve(normal, steps.T @ torch.stack(gains, dim=1))
    for j, (step, weight) in enumerate(zip(_STEPS, weights, strict=True)):
        for side, sign in enumerate((1, -1)):
            begin = first_unit + (2 * j + side) * count
            units = slice(begin, begin + count)
            first[units] = (sign * probe * read + by_time * stream.time[:, :1]).T.float()
            bias[units] = -_SLOPE * step
            second[:, units] = (sign * write * weight / (2 * probe)).float()


def _gelu_slope(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


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
        clean = draw_latents(means[rows], deviations[rows])
        noise = torch.randn(clean.shape)
        times = torch.randint(1, TRAIN_STEPS + 1, (_FIT_BATCH, len(KEYS)))
        shown = network.transform(split_joint(diffuse(clean, times, noise)), times.float(), network.pos_embed)
        for i, (part, patch, tokens) in enumerate(zip(split_joint(noise), config.patch_sizes, shown, strict=True)):
            features = torch.nn.functional.pad(tokens.flatten(0, 1), (0, 1), value=1.0).double()
            wanted = patchify(part, patch).flatten(0, 1).double()
            normal[i] += features.T @ features
            moment[i] += features.T @ wanted
            counts[i] += len(features)
    for i, head in enumerate(network.decoder_preds):
        ridge = _RIDGE * counts[i] * torch.eye(size, dtype=torch.float64)
        fitted = torch.linalg.solve(normal[i] + ridge, moment[i])
        head.get_parameter("weight").copy_(fitted[:-1].T)
        head.get_parameter("bias").copy_(fitted[-1])
