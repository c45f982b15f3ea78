"""Recording: runs of a bundle over known patches, and what its components are given along them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ..runtime import transforms
from ..runtime.bundle import FileRecord
from ..runtime.components import COMPONENTS, STEP
from ..runtime.errors import RequestError
from ..runtime.evaluation.truth import Truth
from ..runtime.folders import require_space, whole_file
from ..runtime.modalities import KEYS, get
from ..runtime.noise import check_seed, latent_noise
from ..runtime.pipeline import Pipeline, Progress
from ..runtime.scene.ledger import keeping
from ..runtime.scene.workplace import hidden_folder, scene_folder
from .recorder import Recorder
from .strata import ROUND, kept_calls, least_rows, more_calls, run_roles, run_seed
from .trajectories import MANIFEST, Entry, RecordedRun, Trajectories, manifest_text, read_run

Floats = NDArray[np.float32]


def record(
    pipeline: Pipeline,
    truth: Truth,
    out: Path,
    *,
    max_mb: float,
    runs: int | None = None,
    samples: int = 1,
    steps: int | None = None,
    solver: str | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Trajectories:
    """Record ``runs`` runs (one a patch by default) of ``pipeline``, fp32, over ``truth`` into the new folder ``out``.

    Run r draws ``samples`` samples of patch r modulo their number, as :meth:`Pipeline.generate` would with the run's
    seed, under roles that :func:`~.strata.run_roles` draws. Kept are every image that the patch has (in the first run
    of the patch), every latent that was drawn or given, the network's first call of every sample, and as many other
    calls as ``max_mb`` (10^6 bytes, of the whole folder) has room for. Encoders run for what is given, decoders not at
    all: what they would be given is known without. ``steps`` and ``solver`` default to the bundle's. Equal arguments
    give equal bytes on one machine, and go on where a run of them was stopped, however it was; what is unfinished lies
    in ``.NAME.recording`` beside ``out``.

    Raises :class:`RequestError` for a request that cannot be met, a finished ``out`` or one that is another request's
    or another process's; :class:`CalibrationError` for inputs beyond half precision; and as :class:`Pipeline` does.
    """
    work = _Work(pipeline, truth, runs, samples, steps, solver, seed, max_mb)
    if (out / MANIFEST).is_file() and not hidden_folder(out, "recording").exists():
        raise RequestError(f"{out} holds a finished recording; name a new folder, or remove it first")
    for line in work.remarks():
        say(line)
    with scene_folder(out, work.fingerprint, "recording") as place:
        require_space(place.root, work.most_bytes - _bytes_in(place.result), "the recording")
        if place.ledger.works:
            say("going on with a recording that was stopped")
        done = []
        for run in range(work.runs):
            values = place.ledger.finished(f"run {run}")
            if values is None:
                path = place.result / f"run-{run:05d}.safetensors"
                source, entries, tensors = work.walk(run, progress)
                with keeping(path), whole_file(path) as partial:
                    partial.write_bytes(save(tensors))
                file = FileRecord.of(place.result, path)
                made = RecordedRun(source, run_seed(seed, run), work.roles[run], file, entries)
                values = place.ledger.record(f"run {run}", [path], run=asdict(made))
            done.append(read_run(values["run"], len(work.plan)))
        model = pipeline.bundle.manifest.model
        text = manifest_text(
            pipeline.bundle.digest, model, work.plan.solver, len(work.plan), done, **work.fingerprint["made"]
        )
        path = place.result / MANIFEST
        with keeping(path), whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return Trajectories.open(out)


class _Work:
    """A request, checked, with what each of its runs records."""

    def __init__(
        self,
        pipeline: Pipeline,
        truth: Truth,
        runs: int | None,
        samples: int,
        steps: int | None,
        solver: str | None,
        seed: int,
        max_mb: float,
    ) -> None:
        if pipeline.backend.precision != "fp32":
            raise RequestError(
                f"found a pipeline in {pipeline.backend.precision}, expected fp32: what others are measured against"
            )
        check_seed(seed)
        self.runs = len(truth) if runs is None else runs
        for what, value in (("runs", self.runs), ("samples", samples)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise RequestError(f"found {value!r} {what}, expected a whole number from 1")
        self._pipeline, self._truth, self._samples, self._seed = pipeline, truth, samples, seed
        self._recorder = Recorder(pipeline.backend)
        self._recording = Pipeline(pipeline.bundle, self._recorder, batch=pipeline.batch)
        self.plan = pipeline.plan(solver, steps)
        components = pipeline.bundle.manifest.components
        self._images = tuple(key for key in KEYS if get(key).is_image and key in truth.physical)
        encoded = {key for key in self._images if f"encoder_{key}" in components}
        known = encoded | {key for key in truth.physical if not get(key).is_image}
        self.roles = [run_roles(seed, run, known) for run in range(self.runs)]
        self._rows = [
            least_rows(roles, samples, encoded if run < len(truth) else (), components)
            for run, roles in enumerate(self.roles)
        ]
        pipeline.bundle.component(STEP)
        for component in {STEP}.union(*self._rows):
            pipeline.backend.check(component)
        self.fingerprint: dict[str, Any] = {
            "bundle": {"sha256": pipeline.bundle.digest},
            "solver": self.plan.solver,
            "steps": len(self.plan),
            "runs": self.runs,
            "made": {
                "samples": samples,
                "seed": seed,
                "max_mb": max_mb,
                "backend": pipeline.backend.name,
                "batch": pipeline.batch,
                "patches": list(truth.names),
                "data": {key: {"sha256": _digest(truth.physical[key])} for key in KEYS if key in truth.physical},
                "tools": {"copgen-edge": version("copgen-edge")},
            },
        }
        # Indented, a list has more bytes than here, and the manifest has the model's description as well.
        notes = 2 * len(json.dumps([self.fingerprint, dict(pipeline.bundle.manifest.model)]))
        self._more, self.most_bytes = more_calls(self._rows, len(self.plan), samples, max_mb, notes)

    def remarks(self) -> list[str]:
        """What a user should know of the recording."""
        calls = len(self.plan) * self._samples
        lines = [f"keeping {self._samples + self._more} of the {calls} network calls of each run"]
        if self.runs <= ROUND:
            lines.append(f"under {ROUND + 1} runs not every modality is given, generated and absent in some")
        covered: Counter[str] = sum(self._rows, Counter())
        if bare := [
            name for name in COMPONENTS if name in self._pipeline.bundle.manifest.components and not covered[name]
        ]:
            lines.append(f"no inputs of {', '.join(bare)}: the data does not have them")
        return lines

    def walk(self, run: int, progress: Progress) -> tuple[str, tuple[Entry, ...], dict[str, NDArray[Any]]]:
        """Make a run: the patch's name, and the entries and tensors of what it was given on its way."""
        patch, roles, seed = run % len(self._truth), self.roles[run], run_seed(self._seed, run)
        kept = kept_calls(run, len(self.plan), self._samples, self._more)
        rows = self._recorder.begin(kept, self._rows[run])
        known = {
            key: transforms.to_model(key, self._truth.physical[key][patch : patch + 1])
            for key in KEYS
            if key in self._images or roles[key] == "given"
        }
        given = {}
        for key, array in known.items():
            if get(key).is_image:
                rows.add(f"encoder_{key}", 0, {"image": array})
            if roles[key] == "given":
                draw = latent_noise(key, 1, seed=seed, purpose="posterior") if get(key).is_image else None
                given[key] = self._recording.encode(key, array, draw)
                rows.add(f"decoder_{key}", 0, {"latent": given[key]})
        drawn = self._denoise(run, given, seed, progress)
        for key, latents in drawn.items():
            for sample, latent in enumerate(latents):
                rows.add(f"decoder_{key}", sample, {"latent": latent[None]})
        return (self._truth.names[patch], *rows.stacked())

    def _denoise(self, run: int, given: Mapping[str, Floats], seed: int, progress: Progress) -> dict[str, Floats]:
        def noise(role: str, purpose: str) -> dict[str, Floats]:
            keys = [key for key in KEYS if self.roles[run][key] == role]
            return {key: latent_noise(key, self._samples, seed=seed, purpose=purpose) for key in keys}

        initial = noise("generated", "initial")
        return self._recording.denoise(
            {key: latent.repeat(self._samples, axis=0) for key, latent in given.items()},
            tuple(initial),
            steps=len(self.plan),
            solver=self.plan.solver,
            initial_noise=initial,
            absent_noise=noise("absent", "absent"),
            progress=lambda what, done, total: progress("record", run * total + done, self.runs * total),
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _digest(array: NDArray[Any]) -> str:
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()
