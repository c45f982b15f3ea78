"""One run of a model over a truth: what was drawn, as latents and in physical units, and what drew it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..modalities import KEYS
from ..pipeline import Pipeline, Progress
from .truth import Truth

RUN_FILE = "run.npz"

_SHOWN = 4

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """``samples`` draws for each of N patches. ``latents`` (N, S, C, h, w) are scaled, ``physical`` (N, S, ...) in the
    units of the transforms; both by modality key. ``about`` says what was asked and what ran."""

    patches: tuple[str, ...]
    given: tuple[str, ...]
    samples: int
    latents: Arrays
    physical: Arrays
    about: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Keys that were drawn, in network order."""
        return tuple(self.physical)

    @property
    def seed(self) -> int | None:
        """Of the noise; None where :attr:`about` does not say."""
        return self.about.get("seed")

    def save(self, path: Path) -> None:
        """Write the run to the new file ``path``."""
        arrays = {f"{kind}/{key}": a for kind in ("latents", "physical") for key, a in getattr(self, kind).items()}
        about = {"patches": self.patches, "given": self.given, "samples": self.samples, "about": self.about}
        with path.open("xb") as stream:
            np.savez(stream, json=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what :meth:`save` wrote; :class:`RequestError` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(str(archive["json"]))
                kinds: dict[str, Arrays] = {
                    kind: {key: archive[f"{kind}/{key}"] for key in KEYS if f"{kind}/{key}" in archive}
                    for kind in ("latents", "physical")
                }
            return cls(tuple(about["patches"]), tuple(about["given"]), about["samples"], **kinds, about=about["about"])
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{path} is no run of 'copgen-edge evaluate --keep-run' ({error}); give a bundle, or evaluate again"
            ) from error


def draw_run(
    pipeline: Pipeline,
    truth: Truth,
    given: Sequence[str],
    outputs: Sequence[str],
    *,
    samples: int,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Run:
    """``samples`` draws of the keys ``outputs`` for each patch of ``truth``, given its modalities ``given``.

    Two runs of the same patches, keys, samples and seed share their noise, whatever draws them. Raises as
    :meth:`Pipeline.generate` does, and :class:`RequestError` for a condition that the truth lacks.
    """
    conditions = truth.given(given)
    rows = len(truth)
    # Without any condition one call serves all patches, each with noise of its own.
    count = samples if conditions else rows * samples
    latents = pipeline.generate_latents(conditions, outputs, samples=count, steps=steps, seed=seed, progress=progress)
    physical = pipeline.to_physical(latents, progress=progress)

    def split(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        return {key: array.reshape(rows, samples, *array.shape[1:]) for key, array in arrays.items()}

    return Run(truth.names, tuple(given), samples, split(latents), split(physical), describe(pipeline, steps, seed))


def describe(pipeline: Pipeline, steps: int | None, seed: int) -> dict[str, Any]:
    """What draws a run, as JSON can hold it."""
    return {
        "bundle": str(pipeline.bundle.root),
        "bundle_sha256": pipeline.bundle.digest,
        "weights": pipeline.bundle.manifest.model["weights"],
        "engine": pipeline.backend.describe(),
        "solver": pipeline.bundle.manifest.solver,
        "steps": len(pipeline.plan(None, steps)),
        "seed": seed,
    }


def comparable(run: Run, other: Run) -> None:
    """:class:`RequestError` unless both runs drew the same keys for the same patches and conditions as often."""
    require(other, {what: getattr(run, what) for what in ("patches", "given", "samples", "outputs")})


def require(baseline: Run, asked: Mapping[str, Any]) -> None:
    """:class:`RequestError` unless ``baseline`` has what was ``asked`` of this run: attributes by name."""
    for what, ours in asked.items():
        theirs = getattr(baseline, what)
        if ours != theirs:
            raise RequestError(
                f"the baseline has {what} {_brief(theirs)}, this run {_brief(ours)}; evaluate both with equal options"
            )


def _brief(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    shown = value if len(value) <= _SHOWN else (*value[:_SHOWN], f"{len(value) - _SHOWN} more")
    return f"({', '.join(map(str, shown))})"
