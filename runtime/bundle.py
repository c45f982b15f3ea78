"""A bundle: a folder with ``manifest.json`` at its root, written by export and read here (docs/bundle.md).

The same classes write and read the manifest, so both sides check the same things. Nothing in a bundle is trusted
because it exists: a component's files are hashed before they are opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from .components import COMPONENTS, STEP, TensorSpec, contract
from .errors import BundleError
from .folders import whole_file
from .modalities import KEYS, MODALITIES
from .solver import MAX_STEPS, SOLVERS

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
PRECISIONS = ("fp32", "fp16")
"""What an export writes."""

QUANTISED: Mapping[str, str] = {
    "int8": "fp32",
    "int8-qdq": "fp16",
    "fp8-qdq": "fp16",
    "int8-weights": "fp32",
    "int4-weights": "fp32",
    "int4-weights-qdq": "fp16",
}
"""What ``copgen-edge quantize`` adds, with the precision in which the components run that have no such variant:
products in INT8 for a CPU, in INT8 and FP8 for TensorRT, weights alone in INT8 and INT4 for a CPU and in INT4 for
TensorRT."""

ALL_PRECISIONS = (*PRECISIONS, *QUANTISED)
COSTS = ("flops_per_row", "weight_bytes", "activation_bytes_per_row")


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle: its path from the root, in bytes, with its SHA-256."""

    path: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: Path) -> FileRecord:
        """The record of the file ``path`` below ``root``."""
        return cls(path.relative_to(root).as_posix(), path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class Variant:
    """One precision of a component: its files (the ONNX file first), tolerance (relative L2) and measured parity.

    ``cost`` has the :data:`COSTS` of its graph, or nothing where the bundle is older than they are. ``calibration`` is
    what was measured along recorded runs (docs/calibration.md), or nothing where nothing was.
    """

    files: tuple[FileRecord, ...]
    tolerance: float
    parity: Mapping[str, Any]
    cost: Mapping[str, int] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_drift(self) -> float | None:
        """Relative L2 of the latents of whole runs against fp32 with the same noise; None where it was not measured."""
        drift = self.calibration.get("run_drift")
        return None if drift is None else float(drift)


@dataclass(frozen=True)
class Component:
    """A part of the model with its contract; ``reference`` is what the fp32 reference gave for the probe inputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    reference: FileRecord
    precisions: Mapping[str, Variant]


@dataclass(frozen=True)
class Manifest:
    """All that a bundle says of itself."""

    model: Mapping[str, Any]
    modalities: tuple[Mapping[str, Any], ...]
    solver: str
    steps: int
    components: Mapping[str, Component]
    reference_run: Mapping[str, Any] | None
    source: Mapping[str, Any]
    tools: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of ``manifest.json``: two equal manifests give the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, its manifest read and checked. ``digest`` is the SHA-256 of the manifest."""

    root: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, root: str | Path) -> Bundle:
        """Read and check the manifest below ``root``; :class:`BundleError` for anything that is not a bundle."""
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise BundleError(f"{root} is no bundle: it has no {MANIFEST}; make one with 'copgen-edge export'")
        raw = path.read_bytes()
        try:
            manifest = read_manifest(json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise BundleError(f"{path} cannot be used ({what}); export or copy the bundle again") from None
        return cls(root, manifest, hashlib.sha256(raw).hexdigest())

    @cached_property
    def scale_factors(self) -> Mapping[str, float]:
        """What multiplies the latent of each modality."""
        return {m["key"]: float(m["scale_factor"]) for m in self.manifest.modalities}

    def component(self, name: str) -> Component:
        """The component ``name``; :class:`BundleError` where the bundle lacks it."""
        try:
            return self.manifest.components[name]
        except KeyError:
            raise BundleError(
                f"{self.root} lacks the component {name}; export it from a checkpoint that has its weights"
            ) from None

    def stored_precision(self, name: str, precision: str) -> str:
        """In what a component runs where ``precision`` is asked for: in that, or in the base of a quantised one that it
        has no variant of. Raises :class:`BundleError` where the bundle has neither."""
        found = self.component(name).precisions
        for stored in (precision, QUANTISED.get(precision, precision)):
            if stored in found:
                return stored
        how = "make it with 'copgen-edge quantize'" if precision in QUANTISED else "export that precision"
        raise BundleError(f"{self.root} has {name} in {', '.join(found)}, not in {precision}; {how}")

    def variant(self, name: str, precision: str) -> Variant:
        """What :meth:`stored_precision` says a component runs in; raises as it does."""
        return self.component(name).precisions[self.stored_precision(name, precision)]

    def precisions(self) -> tuple[str, ...]:
        """The precisions in which every component of the bundle is there; a quantised one if any component has it."""
        components = self.manifest.components.values()
        plain = [p for p in PRECISIONS if all(p in c.precisions for c in components)]
        quantised = [
            p
            for p, base in QUANTISED.items()
            if any(p in c.precisions for c in components)
            and all(p in c.precisions or base in c.precisions for c in components)
        ]
        return (*plain, *quantised)

    def checked(self, record: FileRecord) -> Path:
        """The path of a file after its size and SHA-256 were found right; :class:`BundleError` otherwise."""
        path = self.root / record.path
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the bundle again")
        size = path.stat().st_size
        if size != record.bytes:
            raise BundleError(f"{path} has {size} bytes, the manifest says {record.bytes}; copy the bundle again")
        if sha256(path) != record.sha256:
            raise BundleError(f"{path} is not the file that was exported (SHA-256 differs); copy the bundle again")
        return path

    def onnx_path(self, name: str, precision: str) -> Path:
        """The ONNX file of a component, after all its files were checked."""
        first, *_ = [self.checked(record) for record in self.variant(name, precision).files]
        return first


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Check ``manifest`` as a reader would and write it below ``root``, whole or not at all."""
    text = manifest.to_json()
    read_manifest(json.loads(text))
    with whole_file(root / MANIFEST) as partial:
        partial.write_text(text, encoding="utf-8")


def read_manifest(content: Any) -> Manifest:
    """A :class:`Manifest` from parsed JSON. Raises ValueError, KeyError or TypeError saying what is wrong."""
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}, this program reads {SCHEMA_VERSION}")
    modalities = tuple(content["modalities"])
    _check_modalities(modalities)
    described = content["components"]
    if unknown := set(described) - set(COMPONENTS):
        raise ValueError(f"unknown components {sorted(unknown)}")
    components = {name: _component(name, described[name]) for name in COMPONENTS if name in described}
    if not components:
        raise ValueError("it has no components")
    solver, steps = content["solver"], content["steps"]
    if solver not in SOLVERS or type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"solver {solver!r} with {steps!r} steps")
    model = dict(content["model"])
    if not isinstance(model["weights"], str):
        raise ValueError(f"weights {model['weights']!r}")
    run = content["reference_run"]
    if STEP in components:
        if any(type(model[name]) is not int for name in ("width", "depth", "heads")):
            raise ValueError("the network's width, depth and heads are no whole numbers")
        run = run and _reference_run(run, components[STEP].precisions)
    return Manifest(
        model=model,
        modalities=modalities,
        solver=solver,
        steps=steps,
        components=components,
        reference_run=run,
        source=dict(content["source"]),
        tools=dict(content["tools"]),
    )


def describe_modalities(scale_factors: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
    """The catalogue as the manifest holds it, with the scale factors of one model."""
    described = []
    for m in MODALITIES:
        described.append(
            {
                "key": m.key,
                "family": m.family,
                "kind": m.kind,
                "bands": list(m.bands),
                "units": m.units,
                "size": m.size,
                "resolution": m.resolution,
                "channels": m.channels,
                "latent_shape": list(m.latent_shape),
                "scale_factor": float(scale_factors.get(m.key, m.scale_factor)),
                "codes": {str(code): name for code, name in m.codes.items()},
                "constants": dict(m.constants),
            }
        )
    return tuple(described)


def _check_modalities(found: tuple[Mapping[str, Any], ...]) -> None:
    """A bundle of another catalogue would run and mean something else: every fact but the scale factor must agree."""
    if [m["key"] for m in found] != list(KEYS):
        raise ValueError("its modalities are not the twelve of this program, in the network's order")
    factors = {m["key"]: m["scale_factor"] for m in found}
    if not all(type(f) in (int, float) and 0 < f < float("inf") for f in factors.values()):
        raise ValueError("a scale factor is not a positive number")
    for mine, theirs in zip(describe_modalities(factors), found, strict=True):
        if differing := [name for name in mine if mine[name] != theirs[name]]:
            raise ValueError(f"modality {mine['key']} differs in {', '.join(differing)} from this program's catalogue")


def _component(name: str, content: Mapping[str, Any]) -> Component:
    precisions = {
        precision: Variant(
            tuple(_record(f) for f in content["precisions"][precision]["files"]),
            _tolerance(content["precisions"][precision]["tolerance"]),
            dict(content["precisions"][precision]["parity"]),
            _cost(content["precisions"][precision].get("cost", {})),
            _calibration(content["precisions"][precision].get("calibration", {})),
        )
        for precision in ALL_PRECISIONS
        if precision in content["precisions"]
    }
    if content["name"] != name or not precisions or not all(v.files for v in precisions.values()):
        raise ValueError(f"component {name} has no files or another name")
    inputs, outputs = (tuple(_tensor(t) for t in content[edge]) for edge in ("inputs", "outputs"))
    known = contract(name)
    if (inputs, outputs) != (known.inputs, known.outputs):
        raise ValueError(f"component {name} has other inputs or outputs than this program gives and takes")
    return Component(
        name,
        inputs,
        outputs,
        int(content["opset"]),
        _record(content["reference"]),
        precisions,
    )


def _reference_run(content: Mapping[str, Any], precisions: Iterable[str]) -> dict[str, Any]:
    seed, steps = content["seed"], content["steps"]
    if type(seed) is not int or type(steps) is not int or seed < 0 or not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"a reference run of {steps!r} steps from seed {seed!r}")
    return {
        **content,
        "file": asdict(_record(content["file"])),
        "tolerance": {precision: _tolerance(content["tolerance"][precision]) for precision in precisions},
    }


def _tolerance(value: Any) -> float:
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"tolerance {value!r} is not a positive number")
    return float(value)


def _cost(content: Any) -> dict[str, int]:
    if not isinstance(content, dict):
        raise ValueError(f"cost {content!r} is no JSON object")
    if not content:
        return {}
    for name in COSTS:
        if type(content[name]) is not int or content[name] < 0:
            raise ValueError(f"{name} {content[name]!r} is no whole number of 0 or more")
    return {name: content[name] for name in COSTS}


def _calibration(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"calibration {content!r} is no JSON object")
    drift = content.get("run_drift")
    if drift is not None and not 0 <= float(drift) < float("inf"):
        raise ValueError(f"run_drift {drift!r} is no number of 0 or more")
    return dict(content)


def _tensor(content: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(content["name"]), str(content["dtype"]), tuple(content["shape"]))


def _record(content: Mapping[str, Any]) -> FileRecord:
    path = PurePosixPath(content["path"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the path {path} leaves the bundle")
    return FileRecord(str(path), int(content["bytes"]), str(content["sha256"]))
