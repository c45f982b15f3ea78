"""The model card of a small model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.modalities import IMAGE_KEYS, get
from .data import training_seeds, winter_seeds
from .diffusion import FIRST_CALL_WEIGHT, MAX_WEIGHT
from .recipe import LATENT_STD, Recipe

_CARD = """# COP-GEN small, a model of a made-up world

A latent diffusion transformer of COP-GEN's architecture (arXiv 2603.03239) that was trained from nothing on a
procedural Earth. It exists so that demonstrations show something true, and so that approximations (half precision,
fewer steps, quantisation) can be judged by distributions where the authors' weights are not at hand.

**It knows a toy world and nothing of the real one. Not for science, not for decisions.**

## Model
- Network: width {width}, depth {depth}, {heads} heads, patches of {patches} latent pixels; ten KL autoencoders
  (32 to 64 channels, 8 latent channels, 8x smaller). Weights are float16, in the authors' layout and key names.
- Scale factors, in `config.json`, give the latents, whose channels have mean 0, a standard deviation of {latent_std}.

## Data
`copgen_edge.copgen_ref.world`: {world_patches} patches, all twelve modalities, seeds {first} to {last}, and
{winter_patches} more at places with frost in winter and a summer, seeds from {first_winter} on; nothing measured.
Held-out patches have seeds from 500000000 on.

## Training
- Autoencoders: L1 + 2 MSE, with L1 of slopes for elevation and reflectance (MSE on one-hot classes), + {kl} KL, AdamW,
  on {autoencoder_patches} of the patches. The first three channels of elevation's latent are its slopes toward the east
  and the north (in 0.1 m/m) and its height (in 500 m), by an MSE that counts 0.1:
{autoencoder_steps}
- Network: the paper's objective (noise prediction, an independent t in 1..1000 for each modality and sample, sum of the
  modalities' mean squared errors) in {paper_share:.0%} of each batch; in the rest a random set of modalities given, at
  t = 1, some absent, at 1000, and one t for all others, whose errors are weighted by (sigma / ({latent_std}
  alpha))^2, from 1 to {max_weight:.0f}. Started as a linear denoiser, AdamW at {rate}, warm-up {warm_up}, cosine decay,
  moving average {ema}; in the last {late_steps} steps the rate rose and fell again, and {ground_share:.0%} of a batch
  had place, elevation, land cover and date given, {first_call_share:.0%} of that with noise alone for all else, where
  errors count {first_call_weight} (sigma / ({latent_std} alpha))^2; where place, elevation and date are given, an
  output layer on the middle block, dropped in the end, also tells the light on slopes, by an MSE that counts
  {light_weight}, and the part of an error that lies along that light counts {light_gain} times more than the rest;
  {quarter_steps} steps of {batch} quadrants of patches and {whole_steps} of {whole_batch} whole ones; seed {seed}; on
  {compute}.
- Mean squared error of the noise over the last 100 steps, so weighted, by modality:
{losses}

## Reconstruction by the autoencoders, held-out patches
{reconstruction}

More figures, with the commands that repeat them: `docs/quality.md` of copgen-edge. Licence: Apache-2.0.
"""


def write_card(
    path: Path, recipe: Recipe, reconstruction: Mapping[str, float], last: Mapping[str, Any], compute: str
) -> None:
    """Write the card of a model that was trained by ``recipe``.

    ``reconstruction`` has the mean absolute error of each image modality (dB for radar; for codes the share of wrong
    pixels), ``last`` the last line of the network's log, ``compute`` what it ran on, in words.
    """
    config, network = recipe.network_config, recipe.network
    first = training_seeds(recipe.seed, 1)[0]

    def measure(key: str) -> str:
        if get(key).is_codes:
            return f"{reconstruction[key]:.1%} of pixels in the wrong class"
        unit = "dB" if get(key).kind == "backscatter" else get(key).units
        return f"mean absolute error {reconstruction[key]:.3g} {unit}"

    path.write_text(
        _CARD.format(
            width=config.width,
            depth=config.depth,
            latent_std=LATENT_STD,
            heads=config.heads,
            patches=", ".join(str(patch) for patch in sorted(set(config.patch_sizes))),
            world_patches=recipe.patches,
            first=first,
            last=first + recipe.patches - 1,
            winter_patches=recipe.winter_patches,
            first_winter=winter_seeds(recipe.seed, 1)[0],
            first_call_share=network.first_call_share,
            light_weight=network.light_weight,
            light_gain=f"{network.light_gain:g}",
            first_call_weight=FIRST_CALL_WEIGHT,
            autoencoder_patches=recipe.autoencoder_patches,
            kl=next(iter(recipe.autoencoders.values())).kl_weight,
            autoencoder_steps="\n".join(
                f"  - {key}: {one.steps} steps of {one.batch} crops of {one.crop} px"
                for key, one in recipe.autoencoders.items()
            ),
            rate=network.learning_rate,
            warm_up=network.warm_up,
            ema=network.ema_decay,
            paper_share=1 - network.sampling_share,
            max_weight=MAX_WEIGHT,
            late_steps=network.steps - network.first_ground_step,
            ground_share=network.ground_share,
            quarter_steps=network.steps - network.whole_steps,
            whole_steps=network.whole_steps,
            batch=network.batch,
            whole_batch=network.whole_batch,
            seed=recipe.seed,
            compute=compute,
            losses="\n".join(f"  - {key}: {loss:.3f}" for key, loss in last["each"].items()),
            reconstruction="\n".join(f"- {key}: {measure(key)}" for key in IMAGE_KEYS),
        ),
        encoding="utf-8",
    )
