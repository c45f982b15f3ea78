"""The paper's narrowing experiment: conditions are added one by one, and the distribution tightens round the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..modalities import get
from ..pipeline import Pipeline, Progress
from .bootstrap import interval
from .ensemble import crps, spread_skill
from .regression import to_metric_units
from .results import plain
from .runs import draw_run
from .scores import image_families, vectors
from .spectra import intra_set_distance
from .truth import Truth


@dataclass(frozen=True)
class Stage:
    """One stage: the conditions so far, its figures, and the drawn spectral vectors (N, S, bands)."""

    given: tuple[str, ...]
    figures: dict[str, Any]
    vectors: NDArray[np.float64]


def narrow(
    pipeline: Pipeline,
    truth: Truth,
    conditions: Sequence[tuple[str, tuple[str, ...]]],
    family: str,
    *,
    samples: int,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> list[Stage]:
    """A run with no condition, then one more with each of ``conditions`` (name, keys), generating ``family``.

    Figures of a stage: ``intra_set``, mean distance between the samples' spectral vectors of a patch; ``spread``, root
    mean variance of a pixel over samples; ``crps`` of a pixel; ``inside``, the share of patches and bands whose true
    mean lies between the least and the greatest of the samples' (of a calibrated ensemble (S - 1)/(S + 1)); units as
    in :func:`~.regression.metric_units`. Raises :class:`RequestError` for a family without bands, for one that is among
    the conditions, and for fewer than 2 samples, and as :func:`~.runs.draw_run` does.
    """
    known = image_families(truth.physical)
    if family not in known:
        raise RequestError(
            f"cannot narrow {family!r}; expected a family of images that the truth has: {', '.join(known)}"
        )
    found = known[family]
    if any(key in found for _, keys in conditions for key in keys):
        raise RequestError(f"{family} is both given and asked for; leave it out of --given")
    if samples < 2:
        raise RequestError(f"found {samples} samples, expected 2 or more: there is no spread of one")
    # Now, and not after the stages before: a condition that the last of them cannot use.
    pipeline.check_request([key for _, keys in conditions for key in keys], found)
    stages = []
    for number in range(len(conditions) + 1):
        given = [key for _, keys in conditions[:number] for key in keys]
        names = tuple(name for name, _ in conditions[:number])

        def report(what: str, done: int, total: int, number: int = number) -> None:
            progress(f"narrow {number + 1} of {len(conditions) + 1}: {what}", done, total)

        run = draw_run(pipeline, truth, given, found, samples=samples, steps=steps, seed=seed, progress=report)
        drawn = vectors(run.physical, found)
        real = vectors({key: truth.physical[key][:, None] for key in found}, found)[:, 0]
        inside = (drawn.min(axis=1) <= real) & (real <= drawn.max(axis=1))
        spread, scores = [], []
        for key in found:
            values, target = to_metric_units(key, run.physical[key]), to_metric_units(key, truth.physical[key])
            for band in range(len(get(key).bands)):
                members = values[:, :, band].swapaxes(0, 1)
                spread.append(spread_skill(members, target[:, band]).spread)
                scores.append(crps(members, target[:, band]).mean())
        distances = [intra_set_distance(one) for one in drawn]
        figures = {
            "given": list(names),
            "intra_set": float(np.mean(distances)),
            "intra_set_interval": list(interval(lambda values: float(values.mean()), distances))
            if len(truth) > 1
            else None,
            "spread": float(np.mean(spread)),
            "crps": float(np.mean(scores)),
            "inside": float(inside.mean()),
            "inside_if_calibrated": (samples - 1) / (samples + 1),
        }
        stages.append(Stage(names, plain(figures), drawn))
    return stages
