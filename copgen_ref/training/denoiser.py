"""Training the network: on quadrants of patches first, then on whole ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.folders import whole_file
from ...runtime.modalities import KEYS, MODALITIES
from ..network import CopgenNetwork, NetworkConfig, patchify, split_joint
from .compute import Compute, learning_rate
from .diffusion import draw_first_calls, draw_ground_times, draw_latents, draw_times, modality_losses, without_trace
from .light import LightHead, LightOnLatents
from .quadrants import one_quadrant
from .recipe import NetworkRecipe

_LEAST_CONTRAST = 0.02
"""Added to the standard deviation of the logarithm of the light, by which patches are drawn where it is asked for."""

_PARTS = ("network", "average", "light_head", "optimizer")

Report = Callable[[int, dict[str, float], CopgenNetwork], None]
"""Called as report(step, loss a modality, averaged network) after each step."""


def quadrant_losses(
    network: CopgenNetwork,
    noisy: Tensor,
    times: Tensor,
    noise: Tensor,
    quadrants: Tensor,
    weights: Tensor,
    along: Tensor | None = None,
) -> Tensor:
    """What :func:`~.diffusion.modality_losses` is to a batch, for one quadrant, 0 to 3 by rows, of each patch in it.

    ``noisy``, ``noise`` and ``along`` are (B, 26118), ``times`` and ``weights`` (B, 12), ``quadrants`` (B,). A quadrant
    costs a quarter of a whole patch, and what a network learns first, noise levels and what one place shows in several
    modalities, needs many draws of timesteps and no far neighbours.
    """
    config = network.config
    positions = network.pos_embed[0][_quadrant_tokens(config).to(noisy.device)[quadrants]]
    tokens = network.transform(_quadrants(noisy, quadrants), times, positions)
    directions = None if along is None else _quadrants(along, quadrants)
    losses = []
    for i, (head, seen, part, patch) in enumerate(
        zip(network.decoder_preds, tokens, _quadrants(noise, quadrants), config.patch_sizes, strict=True)
    ):
        wrong = head(seen).float() - patchify(part, patch)
        error = wrong.square().mean(dim=(1, 2))
        if directions is not None:
            part_along = (wrong * patchify(directions[i], patch)).sum(dim=(1, 2))
            error = error + part_along.square() / wrong[0].numel()
        losses.append((error * weights[:, i]).mean())
    return torch.stack(losses)


def _quadrants(joint: Tensor, quadrants: Tensor) -> list[Tensor]:
    """One quadrant of each image of joint latents (B, 26118), and the scalars whole."""
    return [
        one_quadrant(latent, quadrants) if m.is_image else latent
        for m, latent in zip(MODALITIES, split_joint(joint), strict=True)
    ]


@lru_cache(maxsize=4)
def _quadrant_tokens(config: NetworkConfig) -> Tensor:
    """The rows of the position embedding (4, tokens) that belong to each quadrant."""
    indices = [torch.arange(len(MODALITIES)).expand(4, -1)]
    first = len(MODALITIES)
    for m, patch, count in zip(MODALITIES, config.patch_sizes, config.patch_tokens, strict=True):
        own = torch.arange(first, first + count)
        side = m.latent_shape[1] // patch
        four = (
            own.reshape(2, side // 2, 2, side // 2).transpose(1, 2).reshape(4, -1) if m.is_image else own.expand(4, -1)
        )
        indices.append(four)
        first += count
    return torch.cat(indices, dim=1)


class NetworkTraining:
    """A training of ``network`` under way: its moving average, optimizer and steps done; saved and resumed as one
    file."""

    def __init__(self, network: CopgenNetwork, recipe: NetworkRecipe, *, seed: int, compute: Compute) -> None:
        self.recipe = recipe
        self.seed = seed
        self.compute = compute
        self.step = 0
        self.network = network.to(compute.device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.light_head = LightHead(self.network).to(compute.device)
        named = [*self.network.named_parameters(), *self.light_head.named_parameters()]
        # At the full rate the heads lose what they start by looking at, within the warm-up.
        first, slow = (
            [p for name, p in named if name.endswith("attn.qkv.weight") and name.startswith("in_blocks.0.") == is_first]
            for is_first in (True, False)
        )
        decayed = [p for name, p in named if p.ndim >= 2 and not name.endswith("attn.qkv.weight")]
        plain = [p for _, p in named if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": first, "weight_decay": recipe.weight_decay},
                {"params": slow, "weight_decay": recipe.weight_decay},
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
        )

    def save(self, path: Path) -> None:
        """Write the state to ``path``, whole or not at all."""
        with whole_file(path) as partial:
            torch.save({"step": self.step} | {part: getattr(self, part).state_dict() for part in _PARTS}, partial)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, map_location=self.compute.device, weights_only=True)
        for part in _PARTS:
            getattr(self, part).load_state_dict(state[part])
        self.step = state["step"]

    def run(
        self,
        means: NDArray[np.float32],
        deviations: NDArray[np.float32],
        light: NDArray[np.float16],
        report: Report,
    ) -> CopgenNetwork:
        """Train to the last step on scaled joint latents (rows, 26118), given as mean and standard deviation of their
        posterior, and on the light on their ground (rows, 24, 24), by :func:`~.light.light_on_slopes`; return the
        averaged network."""
        contrast = light.std(axis=(1, 2), dtype=np.float32) + _LEAST_CONTRAST
        likely = contrast.astype(np.float64) / contrast.sum(dtype=np.float64)
        on_latents = LightOnLatents(means, light)
        while self.step < self.recipe.steps:
            losses = self._one_step(means, deviations, light, likely, on_latents)
            self.step += 1
            report(self.step, dict(zip(KEYS, losses.tolist(), strict=True)), self.average)
        return self.average

    def _rates(self) -> tuple[float, float, float, float]:
        """The rates of queries, keys and values of the first block and of the others, and twice that of all else."""
        recipe, first = self.recipe, self.recipe.first_ground_step
        if self.step < first:
            rate = learning_rate(self.step, first, recipe.learning_rate, recipe.warm_up, recipe.final_rate)
            return rate * recipe.attention_rate, rate * recipe.attention_rate, rate, rate
        done, steps = self.step - first, recipe.steps - first
        rate = learning_rate(done, steps, recipe.learning_rate, recipe.ground_warm_up, recipe.final_rate)
        return rate * recipe.first_attention_rate, rate, rate, rate

    def _one_step(
        self,
        means: NDArray[np.float32],
        deviations: NDArray[np.float32],
        light: NDArray[np.float16],
        likely: NDArray[np.float64],
        on_latents: LightOnLatents,
    ) -> Tensor:
        recipe, device = self.recipe, self.compute.device
        # Each step has its own stream, so that a resumed training draws what an uninterrupted one would.
        rng = np.random.default_rng([self.seed, 1_000, self.step])
        whole = self.step >= recipe.steps - recipe.whole_steps
        rows = rng.integers(len(means), size=recipe.whole_batch if whole else recipe.batch)
        ground = round(len(rows) * recipe.ground_share) if self.step >= recipe.first_ground_step else 0
        # Where place, elevation and date are given, how often they are drawn changes nothing of what follows from them.
        steep = slice(len(rows) - ground, None, 2)
        rows[steep] = rng.choice(len(means), size=len(rows[steep]), p=likely)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = draw_latents(means[rows], deviations[rows], generator)
        noise = torch.randn(clean.shape, generator=generator)
        others, first_calls = len(rows) - ground, round(ground * recipe.first_call_share)
        drawn = (
            draw_times(others, round(others * recipe.sampling_share), generator),
            draw_ground_times(ground - first_calls, generator),
            draw_first_calls(first_calls, generator),
        )
        times, weights = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        quadrants = torch.randint(4, (len(rows),), generator=generator)
        clean, noise, times, weights, quadrants = (x.to(device) for x in (clean, noise, times, weights, quadrants))
        noisy, noise = without_trace(clean, times, noise, slice(len(rows) - first_calls, None))
        shone = torch.from_numpy(light[rows]).float().to(device)
        seen = None if whole else quadrants
        along = math.sqrt(recipe.light_gain) * on_latents.directions(shone, times, seen)
        with self.compute.autocast():
            if whole:
                losses = modality_losses(self.network.forward_joint(noisy, times.float()), noise, weights, along)
            else:
                losses = quadrant_losses(self.network, noisy, times.float(), noise, quadrants, weights, along)
        for group, rate in zip(self.optimizer.param_groups, self._rates(), strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        asked = recipe.light_weight * self.light_head.error(shone, times, seen)
        (losses.sum() + asked).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        decay = min(recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return losses.detach()
