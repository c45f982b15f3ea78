"""Recorded trajectories: real inputs of a bundle's components along real runs, as a folder.

Each run is one safetensors file of tensors ``COMPONENT/INPUT`` (rows, ...), half precision but for the timesteps, and
``manifest.json`` says what each row is: which sample, which call of the plan, which modalities were given, drawn or
absent. What is measured on them names their digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..runtime.bundle import Bundle, FileRecord, sha256
from ..runtime.components import COMPONENTS, STEP, contract
from ..runtime.errors import CalibrationError
from ..runtime.modalities import KEYS
from ..runtime.schedule import TRAIN_STEPS
from ..runtime.solver import MAX_STEPS, SOLVERS

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ROLES = ("given", "generated", "absent")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One row of a component's inputs: ``row`` of the tensors of ``component`` in the file of a run, for ``sample``.

    ``call`` counts the plan's calls from 0 and ``timestep``, in 0..1000, is that of what is drawn; both are None for
    encoders and decoders.
    """

    component: str
    row: int
    sample: int
    call: int | None = None
    timestep: float | None = None


@dataclass(frozen=True)
class RecordedRun:
    """One run: ``source`` names the patch, ``roles`` has one of :data:`ROLES` for each modality key.

    ``entries`` has all calls that were kept; the first call of every sample is among them, and holds the conditions and
    the noise that the run started from.
    """

    source: str
    seed: int
    roles: Mapping[str, str]
    file: FileRecord
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Trajectories:
    """A folder of recorded runs, its manifest read and checked; ``digest`` is the SHA-256 of the manifest.

    ``bundle`` is the digest of the manifest of the bundle that was recorded, ``model`` what that said of its model.
    """

    root: Path
    bundle: str
    model: Mapping[str, Any]
    solver: str
    steps: int
    runs: tuple[RecordedRun, ...]
    digest: str

    @classmethod
    def open(cls, root: str | Path) -> Trajectories:
        """Read and check the manifest below ``root`` and every file that it names.

        Raises :class:`CalibrationError` for anything that is not a whole recording.
        """
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise CalibrationError(
                f"{root} holds no recorded trajectories (it has no {MANIFEST}); make them with 'copgen-edge calibrate "
                "record', or let it finish"
            )
        raw = path.read_bytes()
        try:
            found = _read(root, json.loads(raw), hashlib.sha256(raw).hexdigest())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise CalibrationError(f"{path} cannot be used ({what}); record the trajectories again") from None
        for run in found.runs:
            file = root / run.file.path
            if not file.is_file() or file.stat().st_size != run.file.bytes or sha256(file) != run.file.sha256:
                raise CalibrationError(f"{file} is missing or not what was recorded; record the trajectories again")
        return found

    def require_model_of(self, bundle: Bundle) -> None:
        """Raise :class:`CalibrationError` where this was recorded of another model than the one in ``bundle``."""
        if dict(self.model) != dict(bundle.manifest.model):
            raise CalibrationError(
                f"{self.root} was recorded of another model than that of {bundle.root}; record it of this bundle"
            )

    def entries(self, component: str, runs: Sequence[RecordedRun] | None = None) -> list[tuple[RecordedRun, Entry]]:
        """All rows recorded of ``component``, in the order of the runs; of some ``runs`` where given."""
        return [
            (run, entry)
            for run in (self.runs if runs is None else runs)
            for entry in run.entries
            if entry.component == component
        ]

    def inputs(self, run: RecordedRun, entries: Sequence[Entry]) -> dict[str, Floats]:
        """The inputs, by name, (rows, ...) float32, of ``entries`` of one component in ``run``.

        Raises :class:`CalibrationError` where the file does not hold them.
        """
        (component,) = {entry.component for entry in entries}
        rows = [entry.row for entry in entries]
        specs = contract(component).inputs
        path = self.root / run.file.path
        try:
            with safe_open(path, framework="numpy") as tensors:
                return {spec.name: _rows(tensors, f"{component}/{spec.name}", spec.shape, rows) for spec in specs}
        except (SafetensorError, OSError, ValueError) as error:
            raise CalibrationError(f"{path} cannot be read ({error}); record the trajectories again") from None

    def rows(self, component: str, most: int | None = None) -> Iterator[dict[str, Floats]]:
        """Inputs of ``component`` one row at a time, ``most`` of them, spread evenly over all that were recorded."""
        found = self.entries(component)
        chosen = range(len(found)) if most is None else spread(len(found), most)
        for index in chosen:
            run, entry = found[index]
            yield self.inputs(run, [entry])


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread, the first and the last among them."""
    if most >= count:
        return list(range(count))
    return sorted({round(float(position)) for position in np.linspace(0, count - 1, most)})


def manifest_text(
    bundle: str, model: Mapping[str, Any], solver: str, steps: int, runs: Sequence[RecordedRun], **notes: Any
) -> str:
    """The text of a recording's ``manifest.json``; ``notes`` say how it was made. Equal recordings give equal text."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "bundle": bundle,
        "model": dict(model),
        "solver": solver,
        "steps": steps,
        "made": notes,
        "runs": [asdict(run) for run in runs],
    }
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _rows(tensors: Any, name: str, shape: tuple[str | int, ...], rows: Sequence[int]) -> Floats:
    """``rows`` of the tensor ``name`` of an open file; the others are not read."""
    stored = tensors.get_slice(name)
    count, *found = stored.get_shape() or (0,)
    if tuple(found) != shape[1:] or stored.get_dtype() not in ("F16", "F32") or max(rows) >= count:
        raise ValueError(f"{name} is {stored.get_dtype()} of shape {stored.get_shape()}, row {max(rows)} was asked for")
    return np.concatenate([np.asarray(stored[row : row + 1], np.float32) for row in rows])


def _read(root: Path, content: Any, digest: str) -> Trajectories:
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {content['schema_version']!r}, this program reads {SCHEMA_VERSION}")
    solver, steps = content["solver"], content["steps"]
    if solver not in SOLVERS or type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"solver {solver!r} with {steps!r} steps")
    runs = tuple(read_run(run, steps) for run in content["runs"])
    if not runs:
        raise ValueError("it has no runs")
    return Trajectories(root, str(content["bundle"]), dict(content["model"]), solver, steps, runs, digest)


def read_run(content: Mapping[str, Any], steps: int) -> RecordedRun:
    """A :class:`RecordedRun` of ``steps`` calls from parsed JSON. Raises ValueError, KeyError or TypeError saying what
    is wrong."""
    roles = dict(content["roles"])
    if set(roles) != set(KEYS) or not set(roles.values()) <= set(ROLES):
        raise ValueError(f"roles {roles!r} are not one of {', '.join(ROLES)} for each modality")
    file = FileRecord(**content["file"])
    if Path(file.path).name != file.path:
        raise ValueError(f"the path {file.path} leaves the recording")
    entries = tuple(Entry(**entry) for entry in content["entries"])
    for entry in entries:
        _check_entry(entry, steps)
    return RecordedRun(str(content["source"]), _whole("seed", content["seed"]), roles, file, entries)


def _check_entry(entry: Entry, steps: int) -> None:
    if entry.component not in COMPONENTS:
        raise ValueError(f"an entry of {entry.component!r}, which is no component")
    _whole("row", entry.row)
    _whole("sample", entry.sample)
    if entry.component != STEP:
        if entry.call is not None or entry.timestep is not None:
            raise ValueError(f"an entry of {entry.component} with call {entry.call!r}, timestep {entry.timestep!r}")
        return
    if _whole("call", entry.call) >= steps:
        raise ValueError(f"call {entry.call} of a run of {steps}")
    if not isinstance(entry.timestep, float) or not 0 <= entry.timestep <= TRAIN_STEPS:
        raise ValueError(f"an entry of {STEP} with timestep {entry.timestep!r}")


def _whole(what: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{what} {value!r} is no whole number of 0 or more")
    return value
