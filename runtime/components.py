"""The 21 components of a whole model, and what goes in and out of each: the same for the side that makes them and the
side that runs them."""

from __future__ import annotations

from dataclasses import dataclass

from .modalities import IMAGE_KEYS, JOINT_SIZE, KEYS, get

STEP = "dit_step"
COMPONENTS: tuple[str, ...] = (
    *(f"encoder_{key}" for key in IMAGE_KEYS),
    STEP,
    *(f"decoder_{key}" for key in IMAGE_KEYS),
)
"""Ten encoders, the network, ten decoders."""


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output; the first dimension is always ``"batch"``."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class Contract:
    """Names and shapes at a component's edges; all float32, whatever happens inside."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def contract(component: str) -> Contract:
    """The contract of ``component``, one of :data:`COMPONENTS`.

    ``dit_step``: joint ``latents`` (batch, 26118) at ``timesteps`` (batch, 12) in 0..1000 to the predicted ``noise``.
    ``encoder_<key>``: ``image`` in model space to unscaled ``moments``, mean and log variance. ``decoder_<key>``:
    scaled ``latent`` to ``image``.
    """
    if component == STEP:
        return Contract((_spec("latents", JOINT_SIZE), _spec("timesteps", len(KEYS))), (_spec("noise", JOINT_SIZE),))
    part, key = component.split("_", 1)
    m = get(key)
    if part == "encoder":
        channels, height, width = m.latent_shape
        return Contract((_spec("image", *m.image_shape),), (_spec("moments", 2 * channels, height, width),))
    return Contract((_spec("latent", *m.latent_shape),), (_spec("image", *m.image_shape),))


def _spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", *shape))
