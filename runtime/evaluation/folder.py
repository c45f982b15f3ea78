"""One evaluation, end to end: runs drawn, scored and reported in a folder that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..folders import new_folder
from ..modalities import FAMILIES, JOINT_SIZE, get, resolve
from ..pipeline import Pipeline, Progress
from ..weights import words_for
from . import plots, report
from .comparison import compare_runs
from .extra import library
from .narrowing import narrow
from .regression import metric_units
from .runs import RUN_FILE, Run, describe, draw_run, require
from .scores import score, vectors
from .truth import Truth

REPORT = "report.json"
PAGE = "report.html"

_LIBRARIES = ("matplotlib.figure", "scipy.spatial.distance", "skimage.metrics", "sklearn.metrics")
_SHOWN_PATCHES = 2
_PICTURES_BYTES = 32 << 20


@dataclass(frozen=True)
class Baseline:
    """What a run is compared with: a ``pipeline`` that draws it (in ``steps``), or a finished ``run``."""

    name: str
    pipeline: Pipeline | None = None
    steps: int | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Request:
    """What is asked for. ``given`` are names (keys or families) in the order in which ``narrowing``, a family or None,
    adds them; ``outputs`` are names."""

    out: Path
    given: Sequence[str]
    outputs: Sequence[str]
    samples: int
    steps: int | None = None
    seed: int = 0
    narrowing: str | None = None
    keep_run: bool = False


def evaluate_folder(
    pipeline: Pipeline,
    truth: Truth,
    request: Request,
    *,
    baseline: Baseline | None = None,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Draw, score and report into the new folder ``request.out``; what ``report.json`` holds.

    The folder gets ``report.json``, ``report.html`` (one file, pictures inside), the pictures as PNG, and with
    ``keep_run`` what was drawn. Raises :class:`RequestError` for what cannot be meant and as the runs raise; nothing is
    left at ``request.out`` then.
    """
    given, outputs = resolve(request.given), resolve(request.outputs)
    _check(truth, request, given, outputs, baseline)
    pictures: list[tuple[str, str, bytes]] = []
    sections: list[tuple[str, str]] = []
    found: dict[str, Any] = {
        "given": list(request.given),
        "outputs": list(outputs),
        "samples": request.samples,
        "seed": request.seed,
        "patches": list(truth.names),
        "tools": {"copgen-edge": version("copgen-edge")},
    }
    rows = len(truth) * request.samples
    with new_folder(request.out, _PICTURES_BYTES + (_run_bytes(outputs) * rows if request.keep_run else 0)) as work:
        if request.narrowing is not None:
            _narrow(pipeline, truth, request, found, sections, pictures, progress)
        else:
            run = draw_run(
                pipeline, truth, given, outputs,
                samples=request.samples, steps=request.steps, seed=request.seed, progress=progress,
            )  # fmt: skip
            if request.keep_run:
                run.save(work / RUN_FILE)
            found["run"] = dict(run.about)
            if any(key in truth.physical for key in outputs):
                _against_truth(run, truth, found, sections, pictures)
            if baseline is not None:
                _against_baseline(pipeline, truth, request, run, baseline, found, sections, pictures, progress, say)
        for name, caption, png in pictures:
            (work / f"{name}.png").write_bytes(png)
            sections.append((caption, report.picture(png, caption)))
        page = report.html("copgen-edge evaluate", _notes(found, len(truth)), sections)
        (work / PAGE).write_text(page, encoding="utf-8")
        (work / REPORT).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def _check(
    truth: Truth, request: Request, given: tuple[str, ...], outputs: tuple[str, ...], baseline: Baseline | None
) -> None:
    """Refuse now what would be refused when all is drawn."""
    for name in _LIBRARIES:
        library(name)
    truth.given(given)
    if request.narrowing is not None:
        if baseline is not None:
            raise RequestError("give --baseline or --narrowing, not both: they are two experiments")
        if request.keep_run:
            raise RequestError("give --keep-run or --narrowing, not both: each stage of a narrowing is another run")
    elif baseline is None and outputs and not any(key in truth.physical for key in outputs):
        raise RequestError(
            f"the truth has none of {', '.join(outputs)}; ask for what it has with --generate, or give a --baseline"
        )
    if baseline is not None and baseline.pipeline is not None:
        baseline.pipeline.check_request(given, outputs)
    if baseline is not None and baseline.run is not None:
        asked = {"patches": truth.names, "given": given, "samples": request.samples, "outputs": outputs}
        require(baseline.run, asked | {"seed": request.seed})


def _against_truth(
    run: Run,
    truth: Truth,
    found: dict[str, Any],
    sections: list[tuple[str, str]],
    pictures: list[tuple[str, str, bytes]],
) -> None:
    scores = score(run, truth)
    found["truth"] = scores
    sections.append(("Against the truth", report.table(report.SCORE_COLUMNS, report.score_rows(scores))))
    if scores["spectra"]:
        sections.append(("Stochastic benchmark", report.table(report.SPECTRA_COLUMNS, report.spectra_rows(scores))))
    reference = truth.draws or truth.physical
    if shown := plots.histograms(run.physical, reference, ("drawn", "truth")):
        pictures.append(("histograms", "Pixel values by band", shown))
    if any(get(key).is_image for key in run.outputs):
        for patch in range(min(_SHOWN_PATCHES, len(truth))):
            png = plots.samples(run.physical, truth.physical, patch)
            pictures.append((f"samples-{patch}", f"Samples: {truth.names[patch]}", png))


def _against_baseline(
    pipeline: Pipeline,
    truth: Truth,
    request: Request,
    run: Run,
    baseline: Baseline,
    found: dict[str, Any],
    sections: list[tuple[str, str]],
    pictures: list[tuple[str, str, bytes]],
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    drawer, steps = baseline.pipeline or pipeline, baseline.steps if baseline.pipeline else request.steps

    def draw(seed: int, what: str) -> Run:
        return draw_run(
            drawer, truth, run.given, run.outputs, samples=request.samples, steps=steps, seed=seed,
            progress=lambda stage, done, total: progress(f"{what}: {stage}", done, total),
        )  # fmt: skip

    if baseline.run is not None:
        say("the baseline is a file: the floor is what two seeds of this run differ by")
        first, reference = run, baseline.run
    else:
        first = reference = draw(request.seed, "baseline")
    comparison = compare_runs(run, reference, (draw(request.seed + 1, "another seed"), first))
    found["baseline"] = {"name": baseline.name, "run": dict(reference.about), **comparison}
    sections.append((f"Against {baseline.name}", report.table(report.DRIFT_COLUMNS, report.drift_rows(comparison))))
    pictures.append(("drift", "Paired drift of the latents", plots.drift(comparison)))
    if shown := plots.histograms(run.physical, reference.physical, ("this run", "baseline")):
        pictures.append(("drift-histograms", "Pixel values by band, this run and the baseline", shown))


def _narrow(
    pipeline: Pipeline,
    truth: Truth,
    request: Request,
    found: dict[str, Any],
    sections: list[tuple[str, str]],
    pictures: list[tuple[str, str, bytes]],
    progress: Progress,
) -> None:
    family = request.narrowing or ""
    stages = narrow(
        pipeline, truth, [(name, resolve([name])) for name in request.given], family,
        samples=request.samples, steps=request.steps, seed=request.seed, progress=progress,
    )  # fmt: skip
    keys = FAMILIES[family]
    found["run"] = describe(pipeline, request.steps, request.seed)
    units = metric_units(keys[0])
    found["narrowing"] = {"family": family, "units": units, "stages": [stage.figures for stage in stages]}
    rows = report.narrowing_rows(found["narrowing"]["stages"])
    sections.append((f"Narrowing of {family}, in {units}", report.table(report.NARROWING_COLUMNS, rows)))
    real = vectors({key: truth.physical[key][:, None] for key in keys}, keys)[:, 0]
    picture = plots.narrowing(stages, real, family, keys)
    pictures.append(("narrowing", "The distribution as conditions are added", picture))


def _run_bytes(outputs: Sequence[str]) -> int:
    """Bytes of one sample in a run's file."""
    return 4 * (JOINT_SIZE + sum(len(get(key).bands) * get(key).size ** 2 for key in outputs))


def _notes(found: dict[str, Any], patches: int) -> list[str]:
    given = ", ".join(found["given"]) or "nothing"
    lines = [
        f"Given {given}: {found['samples']} samples of each of {patches} patches, seed {found['seed']}.",
        _drawn_by(found["run"]),
    ]
    if "baseline" in found:
        lines.append(f"Baseline {found['baseline']['name']}: {_drawn_by(found['baseline']['run'])}")
    return lines


def _drawn_by(run: Mapping[str, Any]) -> str:
    engine = run["engine"]
    return (
        f"{run['bundle']}{words_for(run['weights']).title}, {engine['precision']} on {engine['backend']}, "
        f"{run['steps']} steps of {run['solver']}."
    )
