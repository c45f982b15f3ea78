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
from ..runtime.backends import Arrays, Backend
from ..runtime.backends.host_loop import denoise_on_host
from ..runtime.bundle import FileRecord
from ..runtime.components import COMPONENTS, STEP
from ..runtime.errors import CalibrationError, RequestError
from ..runtime.evaluation.truth import Truth
from ..runtime.folders import require_space, whole_file
from ..runtime.modalities import KEYS, get
from ..runtime.noise import check_seed, latent_noise
from ..runtime.pipeline import Pipeline, Progress
from ..runtime.scene.ledger import keeping
from ..runtime.scene.workplace import hidden_folder, scene_folder
from ..runtime.schedule import TRAIN_STEPS
from ..runtime.solver import Plan
from .strata import ROUND, Calls, kept_calls, least_rows, more_calls, run_roles, run_seed
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
    calls as ``max_mb`` (10^6 bytes, of the whole folder) has room for. ``steps`` and ``solver`` default to the
    bundle's. Equal arguments give equal bytes on one machine, and go on where a run of them was stopped, however it
    was; what is unfinished lies in ``.NAME.recording`` beside ``out``.

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
        self._recorder = _Recorder(pipeline.backend)
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


class _Rows:
    """What components were given in one run; of components that are not ``kept`` nothing."""

    def __init__(self, kept: Mapping[str, int]) -> None:
        self._kept = kept
        self._found: dict[str, dict[tuple[int, int], tuple[float | None, dict[str, NDArray[Any]]]]] = {}

    def add(
        self, component: str, sample: int, inputs: Arrays, call: int | None = None, timestep: float | None = None
    ) -> None:
        """Keep the one row of ``inputs`` of ``component``, in half precision but for the timesteps.

        Raises :class:`CalibrationError` where half precision cannot hold it.
        """
        if component in self._kept:
            small = {name: _half(component, name, array) for name, array in inputs.items()}
            self._found.setdefault(component, {})[call or 0, sample] = timestep, small

    def stacked(self) -> tuple[tuple[Entry, ...], dict[str, NDArray[Any]]]:
        """The entries and the tensors ``COMPONENT/INPUT``, by call and then by sample."""
        entries, tensors = [], {}
        for component in COMPONENTS:
            found = sorted(self._found.get(component, {}).items(), key=lambda item: item[0])
            for row, ((call, sample), (timestep, _)) in enumerate(found):
                entries.append(Entry(component, row, sample, call if component == STEP else None, timestep))
            for name in found[0][1][1] if found else ():
                tensors[f"{component}/{name}"] = np.concatenate([inputs[name] for _, (_, inputs) in found])
        return tuple(entries), tensors


class _Recorder:
    """The backend ``inner``, whose network's inputs are kept at the calls that :meth:`begin` names."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.precision, self.reason = inner.name, inner.precision, inner.reason
        self._calls: Calls = frozenset()
        self._rows = _Rows({})
        self._first_sample = self._call = 0
        self._times: Floats = np.empty(0, np.float32)

    def begin(self, calls: Calls, components: Mapping[str, int]) -> _Rows:
        """Forget the run before this one; the rows of the next, of ``components`` alone."""
        self._calls, self._rows, self._first_sample = calls, _Rows(components), 0
        return self._rows

    def check(self, component: str) -> None:
        self._inner.check(component)

    def load(self, component: str) -> None:
        self._inner.load(component)

    def release(self, component: str) -> None:
        self._inner.release(component)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def run(self, component: str, inputs: Arrays) -> dict[str, Floats]:
        if component == STEP:
            for row in range(len(inputs["latents"])):
                sample = self._first_sample + row
                if (self._call, sample) in self._calls:
                    one = {name: array[row : row + 1] for name, array in inputs.items()}
                    self._rows.add(STEP, sample, one, self._call, float(self._times[self._call]))
            self._call += 1
        return self._inner.run(component, inputs)

    def denoise(
        self, plan: Plan, latents: Floats, times: Floats, moving: NDArray[np.bool_], report: Callable[[int], None]
    ) -> Floats:
        """On the host, whatever ``inner`` would do, so that each call comes by."""
        self._call, self._times = 0, (plan.times * TRAIN_STEPS).astype(np.float32)
        latents = denoise_on_host(self, plan, latents, times, moving, report)
        self._first_sample += len(latents)
        return latents


def _half(component: str, name: str, array: NDArray[np.generic]) -> NDArray[Any]:
    if name == "timesteps":
        return np.array(array, np.float32)
    most = float(np.abs(np.asarray(array, np.float32)).max())
    if not most <= float(np.finfo(np.float16).max):
        raise CalibrationError(
            f"{component} is given {name} up to {most:.3g} in float32, and half precision, which trajectories are kept "
            "in, ends at 65504; check the bundle with 'copgen-edge verify', and the data"
        )
    return np.asarray(array).astype(np.float16)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _digest(array: NDArray[Any]) -> str:
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()
