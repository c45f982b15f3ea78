"""Training the network: the noise of every modality, each at a timestep of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, MODALITIES
from ...runtime.schedule import TRAIN_STEPS, alpha, sigma
from ..network import CopgenNetwork, NetworkConfig
from .compute import Compute, learning_rate
from .recipe import NetworkRecipe

Report = Callable[[int, dict[str, float], CopgenNetwork], None]
"""Called as report(step, loss a modality, averaged network) after each step."""

_BRANCH_STD = 0.002

_OF_MODALITY = torch.from_numpy(np.concatenate([np.full(m.latent_size, i, np.int64) for i, m in enumerate(MODALITIES)]))


def new_network(config: NetworkConfig, seed: int) -> CopgenNetwork:
    """An untrained network; the same ``seed`` gives the same weights.

    It starts by calling all it sees noise: patches are embedded by an isometry, blocks pass them on, and heads undo
    the embedding. That is right at t = 1000, where what is left of the signal is the small difference of prediction and
    input, and where a network that must first learn to copy its input spends most of a short training. Position
    embeddings, learned later, start as sines and cosines of where a token lies on the ground plus a vector of its
    modality, so that tokens of one place are alike across modalities from the first step.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = CopgenNetwork(config)
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Linear):
                # The last layer of a residual branch is small: a block starts close to the identity.
                std = _BRANCH_STD if name.endswith(("attn.proj", "mlp.fc2")) else 0.02
                torch.nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
        half = torch.eye(config.width) / 2
        for block in network.out_blocks:
            block.get_parameter("skip_linear.weight").mul_(_BRANCH_STD).add_(torch.cat([half, half], dim=1))
        network.pos_embed.copy_(_positions(config))
        basis = torch.nn.init.orthogonal_(torch.empty(config.width, config.width))
        places = network.pos_embed[0, len(MODALITIES) :].split(config.patch_tokens)  # type: ignore[no-untyped-call]
        for embed, head, place in zip(network.patch_embeds, network.decoder_preds, places, strict=True):
            _undo(embed, head, basis)
            # What a head reads must not hold the place, or it would take that for noise.
            shown = embed.get_parameter("proj.weight").flatten(1)
            place.sub_(place @ shown @ shown.T)
        _calibrate(network)
    return network


def _undo(embed: torch.nn.Module, head: torch.nn.Module, basis: Tensor) -> None:
    """Make ``embed`` the first columns of the orthogonal ``basis``, as far as they go, and ``head`` its transpose."""
    weight = embed.get_parameter("proj.weight")
    width, inputs = len(weight), weight[0].numel()
    weight.zero_()
    columns = weight.view(width, inputs)[:, : len(basis)]
    columns.copy_(basis[:, :inputs])
    torch.nn.init.zeros_(embed.get_parameter("proj.bias"))
    # A patch is (channels, rows, columns) at the embedding and (rows, columns, channels) at the head.
    head.get_parameter("weight").copy_(weight.permute(2, 3, 1, 0).reshape(inputs, width))


def _calibrate(network: CopgenNetwork) -> None:
    """Scale each head so that pure noise comes out as it went in; the norms on the way have changed its size."""
    noise = torch.randn(4, JOINT_SIZE)
    found = network.forward_joint(noise, torch.full((4, len(KEYS)), float(TRAIN_STEPS)))
    for head, key in zip(network.decoder_preds, KEYS, strict=True):
        mine, wanted = found[:, JOINT_SLICES[key]], noise[:, JOINT_SLICES[key]]
        head.get_parameter("weight").mul_((mine * wanted).sum() / mine.square().sum())


def _positions(config: NetworkConfig) -> Tensor:
    width = config.width
    parts = [0.3 * torch.randn(len(MODALITIES), width)]
    frequencies = 2 * math.pi * 2.0 ** torch.linspace(-2, 1.6, width // 4)
    for m, patch in zip(MODALITIES, config.patch_sizes, strict=True):
        modality = 0.3 * torch.randn(width)
        if not m.is_image:
            tokens = math.prod(m.latent_shape[1:])
            parts.append(modality + 0.3 * torch.randn(tokens, width))
            continue
        side = m.latent_shape[1] // patch
        centres = (torch.arange(side) + 0.5) / side
        angles = centres[:, None] * frequencies
        axis = torch.cat([angles.sin(), angles.cos()], dim=1)
        down = axis[:, None].expand(side, side, width // 2)
        right = axis[None].expand(side, side, width // 2)
        parts.append(0.5 * torch.cat([down, right], dim=-1).reshape(side * side, width) + modality)
    return torch.cat(parts)[None]


def diffuse(clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Joint latents ``clean`` (B, 26118) at discrete ``times`` (B, 12) in 1..1000, with ``noise`` of their shape."""
    grid = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS
    signal, share = (torch.from_numpy(f(grid)).float().to(clean.device) for f in (alpha, sigma))
    index = (times.long() - 1)[:, _OF_MODALITY.to(clean.device)]
    return signal[index] * clean + share[index] * noise


def modality_losses(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each modality (12,) over joint arrays (B, 26118); the objective is their sum (COP-GEN,
    arXiv 2603.03239, section 3)."""
    square = (predicted - noise).square().mean(dim=0)
    return torch.stack([square[JOINT_SLICES[key]].mean() for key in KEYS])


class NetworkTraining:
    """A training under way: network, moving average, optimizer and steps done; saved and resumed as one file."""

    def __init__(self, config: NetworkConfig, recipe: NetworkRecipe, *, seed: int, compute: Compute) -> None:
        self.recipe = recipe
        self.seed = seed
        self.compute = compute
        self.step = 0
        self.network = new_network(config, seed).to(compute.device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        decayed = [p for p in self.network.parameters() if p.ndim >= 2]
        plain = [p for p in self.network.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
        )

    def save(self, path: Path) -> None:
        """Write the state to ``path``, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        parts = ("network", "average", "optimizer")
        torch.save({"step": self.step} | {part: getattr(self, part).state_dict() for part in parts}, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, map_location=self.compute.device, weights_only=True)
        for part in ("network", "average", "optimizer"):
            getattr(self, part).load_state_dict(state[part])
        self.step = state["step"]

    def run(self, means: NDArray[np.float32], deviations: NDArray[np.float32], report: Report) -> CopgenNetwork:
        """Train to the last step on scaled joint latents (rows, 26118), given as mean and standard deviation of their
        posterior, and return the averaged network."""
        while self.step < self.recipe.steps:
            losses = self._one_step(means, deviations)
            self.step += 1
            report(self.step, dict(zip(KEYS, losses.tolist(), strict=True)), self.average)
        return self.average

    def _one_step(self, means: NDArray[np.float32], deviations: NDArray[np.float32]) -> Tensor:
        recipe, device = self.recipe, self.compute.device
        # Each step has its own stream, so that a resumed training draws what an uninterrupted one would.
        rng = np.random.default_rng([self.seed, 1_000, self.step])
        rows = np.sort(rng.integers(len(means), size=recipe.batch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        mean = torch.from_numpy(means[rows]).float()
        clean = mean + torch.from_numpy(deviations[rows]).float() * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        times = torch.randint(1, TRAIN_STEPS + 1, (recipe.batch, len(KEYS)), generator=generator)
        clean, noise, times = clean.to(device), noise.to(device), times.to(device)
        with self.compute.autocast():
            predicted = self.network.forward_joint(diffuse(clean, times, noise), times.float())
        losses = modality_losses(predicted, noise)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.step, recipe.steps, recipe.learning_rate, recipe.warm_up, recipe.final_rate
            )
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return losses.detach()
