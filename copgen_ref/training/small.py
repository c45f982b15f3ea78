"""The training of the small model from first to last, in one folder that a second call resumes.

``OUT/work`` holds what is finished of each stage, the state of the network under way, ``log.jsonl`` and pictures;
``OUT/model`` appears at the end: the checkpoint in the authors' layout, float16, with its card.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ...runtime.errors import RequestError
from ...runtime.folders import new_folder, whole_file
from ...runtime.modalities import IMAGE_KEYS, JOINT_SIZE, JOINT_SLICES, KEYS, get
from ...runtime.transforms import to_physical
from ..autoencoder import Autoencoder, AutoencoderConfig
from ..files import AUTOENCODER_FOLDERS, CONFIG_NAME
from ..network import CopgenNetwork
from ..world_truth import HELD_OUT
from .autoencoders import encode, new_autoencoder, train_autoencoder
from .card import write_card
from .compute import Compute
from .data import Arrays, PatchSource, patch_source, to_tensor, training_seeds, winter_seeds
from .denoiser import NetworkTraining
from .light import LIGHT_SIDE, light_on_slopes
from .recipe import LATENT_STD, NORM_GROUPS, Recipe
from .samples import write_samples
from .start import linear_start

Progress = Callable[[str, int, int], None]

_SHARD = 64
_SAVE_EVERY = 200
_PICTURES = 6
_PICTURE_ROWS = 3
_WARM_STARTS = {
    "S2L2A_B02_B03_B04_B08": "S2L1C_B02_B03_B04_B08",
    "S2L2A_B05_B06_B07_B11_B12_B8A": "S2L1C_B05_B06_B07_B11_B12_B8A",
}
"""The surface looks like the top of the atmosphere: its autoencoder starts from the other's weights."""


def train_small(
    out: str | Path,
    recipe: Recipe,
    *,
    device: str = "auto",
    workers: int = 2,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Train by ``recipe`` into the folder ``out``, going on where an earlier call of the same recipe was stopped, and
    return ``out/model``, a checkpoint that :func:`~copgen_edge.copgen_ref.load_checkpoint` reads.

    ``workers`` processes draw the world. Raises :class:`RequestError` where ``out`` holds another recipe's training or
    a finished model, and where ``device`` is not there.
    """
    compute = Compute.choose(device)
    root = Path(out)
    model = root / "model"
    if model.exists():
        raise RequestError(f"{model} is there already: the training is done; name another folder to train anew")
    work = root / "work"
    _claim(work, recipe)
    log = _Log(work / "log.jsonl")
    with patch_source(workers) as source:
        autoencoders = _autoencoders(work, recipe, source, compute, log, progress)
        means, deviations, light = _latents(work, recipe, autoencoders, source, compute, progress)
        held_out = source.stacked(range(HELD_OUT, HELD_OUT + recipe.held_out), KEYS)
    for key in IMAGE_KEYS:
        means[:, JOINT_SLICES[key]] -= _centre(autoencoders[key], means[:, JOINT_SLICES[key]])
    scales = _scale_factors(means, deviations)
    for key, scale in scales.items():
        means[:, JOINT_SLICES[key]] *= scale
        deviations[:, JOINT_SLICES[key]] *= scale
    network = _network(work, recipe, means, deviations, light, autoencoders, scales, held_out, compute, log, progress)
    reconstruction = {key: _reconstruction(key, autoencoders[key], held_out, compute) for key in IMAGE_KEYS}
    with new_folder(model, 64_000_000) as folder:
        _save_half(folder / "models/copgen/cop_gen_small/nnet_ema.safetensors", network)
        for key, autoencoder in autoencoders.items():
            _save_half(folder / "models/vae" / AUTOENCODER_FOLDERS[key] / "model-ema.safetensors", autoencoder)
        config = {
            "num_heads": recipe.network_config.heads,
            "norm_groups": NORM_GROUPS,
            "scale_factors": scales,
            "weights": "small-world",
        }
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        write_card(folder / "MODEL_CARD.md", recipe, reconstruction, log.last("network"), compute.describe())
    return model


class _Log:
    """Lines of JSON, one a report, with the seconds since this call began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.perf_counter()

    def write(self, stage: str, **values: Any) -> None:
        line = {"stage": stage, **values, "seconds": round(time.perf_counter() - self._start, 1)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def last(self, stage: str) -> dict[str, Any]:
        lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        return next(line for line in reversed(lines) if line["stage"] == stage)


def _claim(work: Path, recipe: Recipe) -> None:
    """Make ``work`` that of ``recipe``, or see that it is."""
    # Through JSON, for tuples become lists there.
    wanted = json.loads(json.dumps(asdict(recipe)))
    record = work / "recipe.json"
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8")) != wanted:
            raise RequestError(f"{work} holds a training by another recipe or seed; give that one, or another folder")
        return
    if work.exists() and any(work.iterdir()):
        raise RequestError(f"{work} holds something that is no training; name another folder")
    work.mkdir(parents=True, exist_ok=True)
    (work / "pictures").mkdir(exist_ok=True)
    with whole_file(record) as partial:
        partial.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _autoencoders(
    work: Path, recipe: Recipe, source: PatchSource, compute: Compute, log: _Log, progress: Progress
) -> dict[str, Autoencoder]:
    paths = {key: work / f"autoencoder_{key}.safetensors" for key in IMAGE_KEYS}
    images: Arrays = {}
    if not all(path.exists() for path in paths.values()):
        progress("world", 0, 1)
        images = source.stacked(training_seeds(recipe.seed, recipe.autoencoder_patches))
        progress("world", 1, 1)
    trained: dict[str, Autoencoder] = {}
    for key in sorted(IMAGE_KEYS, key=lambda key: key in _WARM_STARTS):
        model = new_autoencoder(key, recipe.seed)
        if paths[key].exists():
            model.load_state_dict(load_file(paths[key]))
            trained[key] = model.eval().requires_grad_(False).to(compute.device)
            continue
        plan = recipe.autoencoders[key]
        if key in _WARM_STARTS:
            model.load_state_dict(trained[_WARM_STARTS[key]].state_dict())
        recent: list[float] = []
        total = plan.steps

        def report(step: int, loss: float, key: str = key, recent: list[float] = recent, total: int = total) -> None:
            recent.append(loss)
            progress(f"autoencoders: {key}, loss {np.mean(recent[-20:]):.4f}", step, total)
            if step % 50 == 0 or step == total:
                log.write(f"autoencoder_{key}", step=step, loss=float(np.mean(recent[-50:])))

        trained[key] = train_autoencoder(key, model, images, plan, seed=recipe.seed, compute=compute, report=report)
        _save_whole(paths[key], {name: value.cpu() for name, value in trained[key].state_dict().items()})
    return {key: trained[key] for key in IMAGE_KEYS}


def _latents(
    work: Path,
    recipe: Recipe,
    autoencoders: Mapping[str, Autoencoder],
    source: PatchSource,
    compute: Compute,
    progress: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]:
    """Mean and standard deviation of the latents (rows, 26118), not scaled, and the light on their ground."""
    folder = work / "latents"
    folder.mkdir(exist_ok=True)
    seeds = (*training_seeds(recipe.seed, recipe.patches), *winter_seeds(recipe.seed, recipe.winter_patches))
    means = np.empty((len(seeds), JOINT_SIZE), np.float32)
    deviations = np.empty_like(means)
    light = np.empty((len(seeds), LIGHT_SIDE, LIGHT_SIDE), np.float16)
    for start in range(0, len(seeds), _SHARD):
        rows = slice(start, min(start + _SHARD, len(seeds)))
        path = folder / f"{start:06d}.safetensors"
        if not path.exists():
            patches = source.stacked(seeds[rows], KEYS)
            parts = (*encode(autoencoders, patches, compute), light_on_slopes(patches))
            named = zip(("mean", "deviation", "light"), map(torch.from_numpy, parts), strict=True)
            _save_whole(path, dict(named))
        shard = load_file(path)
        for whole, name in ((means, "mean"), (deviations, "deviation"), (light, "light")):
            whole[rows] = shard[name].numpy()
        progress("latents", rows.stop, len(seeds))
    return means, deviations, light


def _centre(autoencoder: Autoencoder, means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move the origin of the latents of ``autoencoder`` to the mean of each channel over ``means`` (rows, C * H * W),
    and return what was taken away. What they decode to stays."""
    weights = autoencoder.post_quant_conv.weight
    channels = autoencoder.config.latent_channels
    centre = means.reshape(len(means), channels, -1).mean(axis=(0, 2))
    moved = torch.from_numpy(centre).to(weights.device)
    autoencoder.get_parameter("quant_conv.bias")[:channels] -= moved
    autoencoder.get_parameter("post_quant_conv.bias").add_(weights[:, :, 0, 0] @ moved)
    return np.repeat(centre, means.shape[1] // channels)


def _scale_factors(means: NDArray[np.float32], deviations: NDArray[np.float32]) -> dict[str, float]:
    """What gives the latents of each image modality, over rows, channels and pixels, the standard deviation
    :data:`LATENT_STD`."""
    scales = {}
    for key in IMAGE_KEYS:
        mean, deviation = means[:, JOINT_SLICES[key]], deviations[:, JOINT_SLICES[key]]
        variance = mean.astype(np.float64).var() + np.square(deviation, dtype=np.float64).mean()
        scales[key] = round(float(LATENT_STD * variance**-0.5), 6)
    return scales


def _network(
    work: Path,
    recipe: Recipe,
    means: NDArray[np.float32],
    deviations: NDArray[np.float32],
    light: NDArray[np.float16],
    autoencoders: Mapping[str, Autoencoder],
    scales: Mapping[str, float],
    held_out: Arrays,
    compute: Compute,
    log: _Log,
    progress: Progress,
) -> CopgenNetwork:
    state = work / "network.pt"
    going_on = state.exists()
    if going_on:
        network = CopgenNetwork(recipe.network_config)
    else:
        progress("start of the network", 0, 1)
        network = linear_start(recipe.network_config, means, deviations, recipe.seed)
    training = NetworkTraining(network, recipe.network, seed=recipe.seed, compute=compute)
    if going_on:
        training.resume(state)
    shown = {key: values[:_PICTURE_ROWS] for key, values in held_out.items()}
    clean = encode(autoencoders, shown, compute)[0].astype(np.float32)
    for key, scale in scales.items():
        clean[:, JOINT_SLICES[key]] *= scale
    truth = {key: to_physical(key, to_tensor(key, shown[key]).numpy()) for key in IMAGE_KEYS}
    decoding = {key: Autoencoder(_with_scale(autoencoders[key], scales[key])) for key in IMAGE_KEYS}
    for key, model in decoding.items():
        model.load_state_dict(autoencoders[key].state_dict())
        model.eval().requires_grad_(False).to(compute.device)
    recent: list[dict[str, float]] = []
    total = recipe.network.steps

    def report(step: int, losses: dict[str, float], average: CopgenNetwork) -> None:
        recent.append(losses)
        del recent[:-100]
        progress(f"network, loss {np.mean([sum(one.values()) for one in recent]):.3f}", step, total)
        if step % 100 == 0 or step == total:
            each = {key: round(float(np.mean([one[key] for one in recent])), 4) for key in KEYS}
            log.write("network", step=step, loss=round(sum(each.values()), 4), each=each)
        if step % _SAVE_EVERY == 0 or step == total:
            training.save(state)
        if step % max(1, total // _PICTURES) == 0 or step == total:
            path = work / "pictures" / f"step-{step:06d}.png"
            write_samples(path, average, decoding, clean, truth, compute=compute)

    return training.run(means, deviations, light, report)


def _with_scale(autoencoder: Autoencoder, scale: float) -> AutoencoderConfig:
    return replace(autoencoder.config, scale_factor=scale)


def _reconstruction(key: str, autoencoder: Autoencoder, held_out: Arrays, compute: Compute) -> float:
    """Error of encoding (mean) and decoding the held-out patches: share of pixels of the wrong class for codes, else
    mean absolute error in physical units, radar in dB."""
    image = to_tensor(key, held_out[key])
    with torch.inference_mode():
        moments = autoencoder.encode_moments(image.to(compute.device))
        found = autoencoder.decode(autoencoder.sample_latent(moments)).cpu()
    truth, decoded = to_physical(key, image.numpy()), to_physical(key, found.numpy())
    if get(key).is_codes:
        return float((truth != decoded).mean())
    if get(key).kind == "backscatter":
        truth, decoded = 10 * np.log10(truth), 10 * np.log10(decoded)
    return float(np.abs(truth.astype(np.float64) - decoded).mean())


def _save_whole(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with whole_file(path) as partial:
        save_file(tensors, partial)


def _save_half(path: Path, model: torch.nn.Module) -> None:
    path.parent.mkdir(parents=True)
    save_file({name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}, path)
