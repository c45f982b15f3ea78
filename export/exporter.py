"""A checkpoint becomes a bundle: export each component, verify all of it, and only then give it its name."""

from __future__ import annotations

import gc
import multiprocessing
import platform
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..copgen_ref.checkpoint import CheckpointFiles, find_checkpoint, load_network
from ..copgen_ref.network import VARIANTS, NetworkConfig
from ..runtime.backends import create_backend
from ..runtime.bundle import (
    PRECISIONS,
    Bundle,
    Component,
    FileRecord,
    Manifest,
    Variant,
    describe_modalities,
    sha256,
    write_manifest,
)
from ..runtime.components import COMPONENTS, STEP, contract
from ..runtime.errors import CalibrationError, ParityError, RequestError
from ..runtime.folders import new_folder
from ..runtime.modalities import KEYS
from ..runtime.parity import PROBE_SEED, RUN_STEPS, probe_inputs
from ..runtime.solver import DEFAULT_SOLVER, DEFAULT_STEPS
from ..runtime.verification import RUN, Check, check_bundle, short_run, summarise
from .components import build_module
from .cost import graph_cost
from .half import to_half
from .half_plan import HalfPlan, read_half_plan
from .onnx_file import OPSET, write_onnx
from .overflow import HalfPeaks, half_peaks, require_half_range
from .reference_backend import ReferenceBackend

TOLERANCES = {"fp32": 5e-5, "fp16": 5e-3}
"""Relative L2 error of one component against the fp32 reference that a bundle may have."""

RUN_TOLERANCES = {"fp32": 5e-5, "fp16": 2e-2}
"""The same for the latents of a short run, in which the errors of several calls add up."""

Progress = Callable[[str, int, int], None]
Units = Mapping[str, tuple[str, ...]]


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    components: Sequence[str] = ("*",),
    num_heads: int | None = None,
    half_plan: str | Path | None = None,
    workers: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Manifest, list[Check]]:
    """Export the checkpoint folder to the new folder ``out``; its manifest and the checks it passed.

    ``components`` are names or patterns of :data:`~copgen_edge.runtime.components.COMPONENTS`; what the checkpoint has
    no weights for is left out unless it is named. ``workers`` processes export one component at a time each, and that
    is what is in memory: most of an export is Python that runs on one core. The folder appears whole, after every
    component and a short run agreed with the reference on fresh inputs. ``half_plan`` is a bundle or a file with the
    plan of ``calibrate halves``: the units that it names stay in float32 in fp16.

    Raises :class:`RequestError` for an unknown precision or component and for a folder that holds something already,
    :class:`CheckpointError` for the checkpoint, :class:`CalibrationError` for a plan that cannot be read or is of other
    weights, :class:`ExportError` where a component overflows in half, :class:`ParityError` with the figures where one
    is over its tolerance: then nothing is left at ``out``.
    """
    out = Path(out)
    wanted = _precisions(precisions)
    files = find_checkpoint(checkpoint).with_heads(num_heads)
    names = _components(files, components)
    for name in names:
        # Weights are mapped, not read: a file that will not do is refused before the first export, not after the last.
        build_module(files, name)
    plan = read_half_plan(half_plan) if half_plan is not None else None
    units = _float32_units(files, plan, names) if plan is not None else {}
    sources = sum(path.stat().st_size for path in _source_files(files))
    with new_folder(out, len(wanted) * sources) as work:
        manifest, checks = _build(files, work, names, wanted, units, workers, progress)
    return manifest, checks


def left_out(manifest: Manifest) -> list[str]:
    """Components that the bundle lacks."""
    return [name for name in COMPONENTS if name not in manifest.components]


def _build(
    files: CheckpointFiles,
    work: Path,
    names: Sequence[str],
    precisions: Sequence[str],
    units: Units,
    workers: int,
    progress: Progress,
) -> tuple[Manifest, list[Check]]:
    total = 2 * len(names) * len(precisions)
    (work / "onnx").mkdir()
    (work / "reference").mkdir()
    built = {}
    for number, component in enumerate(_exported(files, work, names, precisions, units, workers)):
        built[component.name] = component
        progress(f"export {component.name}", (number + 1) * len(precisions), total)
    manifest = _manifest(files, built, units if "fp16" in precisions else {})
    reference = ReferenceBackend(files)
    if STEP in names:
        manifest = replace(manifest, reference_run=_reference_run(work, manifest, reference, precisions))
    # The manifest is written last: an export that is killed leaves nothing that can be opened as a bundle.
    bundle = Bundle(work, manifest, "")
    checks: list[Check] = []
    for number, precision in enumerate(precisions):
        backend = create_backend(bundle, "onnxruntime-cpu", precision=precision)
        seen: set[str] = set()
        for check in check_bundle(bundle, backend, reference=reference):
            checks.append(check)
            seen.add(check.component)
            done = (len(precisions) + number) * len(names) + min(len(seen), len(names))
            progress(f"verify {check.component} {precision}", done, total)
    if failed := [check for check in checks if not check.passed]:
        figures = "; ".join(
            f"{c.component} {c.precision} batch {c.rows}: relative L2 {c.figures.relative_l2:.2e} over "
            f"{c.tolerance:.0e}, max abs {c.figures.max_abs:.2e}, cosine {c.figures.cosine:.6f}"
            for c in failed
        )
        raise ParityError(f"the exported files differ from the reference, so no bundle was made: {figures}")
    manifest = _with_parity(manifest, checks)
    write_manifest(work, manifest)
    return manifest, checks


def _exported(
    files: CheckpointFiles, work: Path, names: Sequence[str], precisions: Sequence[str], units: Units, workers: int
) -> Iterator[Component]:
    """Each of ``names``, exported, in their order."""
    export = partial(_export_component, files, work, precisions, units)
    if workers == 1:
        yield from map(export, names)
        return
    # Not by fork: torch's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        try:
            yield from pool.map(export, names)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin_worker() -> None:
    # An interrupt is the parent's to answer, and the exporter's Python would only wait for more threads.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _export_component(
    files: CheckpointFiles, work: Path, precisions: Sequence[str], units: Units, name: str
) -> Component:
    edges = contract(name)
    module = build_module(files, name)
    float32 = units.get(name, ())
    probe = probe_inputs(name, 1, PROBE_SEED)
    watched = half_peaks(module, float32) if "fp16" in precisions else nullcontext(HalfPeaks())
    with torch.inference_mode(), watched as peaks:
        expected = module(*(torch.from_numpy(probe[spec.name]) for spec in edges.inputs))
    require_half_range(name, peaks, "the probe inputs")
    reference = _save(work, name, {edges.outputs[0].name: expected.numpy()})
    variants = {}
    # fp32 first: the conversion to half is in place and does not come back.
    for precision in sorted(precisions, key=PRECISIONS.index):
        half = precision == "fp16"
        converted = to_half(module, float32) if half else module
        paths = write_onnx(converted, edges, work / "onnx" / f"{name}.{precision}.onnx")
        records = tuple(FileRecord.of(work, path) for path in paths)
        variants[precision] = Variant(records, TOLERANCES[precision], {}, graph_cost(paths[0]))
    del module
    gc.collect()
    return Component(name, edges.inputs, edges.outputs, OPSET, reference, variants)


def _save(work: Path, name: str, arrays: Mapping[str, np.ndarray]) -> FileRecord:
    path = work / "reference" / f"{name}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return FileRecord.of(work, path)


def _reference_run(
    work: Path, manifest: Manifest, reference: ReferenceBackend, precisions: Sequence[str]
) -> dict[str, Any]:
    """What the reference draws in a short run, for a machine that has no reference."""
    latents = short_run(Bundle(work, manifest, ""), reference, seed=PROBE_SEED)
    record = _save(work, RUN, latents)
    return {
        "file": {"path": record.path, "bytes": record.bytes, "sha256": record.sha256},
        "outputs": list(KEYS),
        "seed": PROBE_SEED,
        "steps": RUN_STEPS,
        "tolerance": {precision: RUN_TOLERANCES[precision] for precision in precisions},
        "parity": {},
    }


def _manifest(files: CheckpointFiles, components: Mapping[str, Component], units: Units) -> Manifest:
    model: dict[str, Any] = {"weights": files.weights}
    if units:
        model["half_plan"] = {name: list(kept) for name, kept in units.items()}
    if files.network is not None:
        config = load_network(files).config
        model |= {
            "variant": _variant(config),
            "width": config.width,
            "depth": config.depth,
            "heads": config.heads,
            "patch_sizes": list(config.patch_sizes),
        }
    return Manifest(
        model=model,
        modalities=describe_modalities(files.scale_factors),
        solver=DEFAULT_SOLVER,
        steps=DEFAULT_STEPS,
        components=components,
        reference_run=None,
        source={
            "files": [
                {"path": path.relative_to(files.root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}
                for path in _source_files(files)
            ]
        },
        tools={
            "python": platform.python_version(),
            **{name: version(name) for name in ("copgen-edge", "torch", "onnx", "onnxscript", "onnxruntime")},
        },
    )


def _float32_units(files: CheckpointFiles, plan: HalfPlan, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The units of ``names`` that the plan keeps in float32; :class:`CalibrationError` where it is of other weights."""
    units = {name: kept for name, kept in plan.needed.items() if name in names}
    known = set(plan.source.values())
    for name in units:
        path = files.network_file() if name == STEP else files.autoencoder_file(name.split("_", 1)[1])
        if sha256(path) not in known:
            raise CalibrationError(
                f"the plan for {name} was measured on other weights than {path.name}; run 'copgen-edge calibrate "
                "halves' on a bundle of this checkpoint"
            )
    return units


def _source_files(files: CheckpointFiles) -> list[Path]:
    network = [files.network] if files.network is not None else []
    return network + [files.autoencoders[key] for key in KEYS if key in files.autoencoders]


def _variant(config: NetworkConfig) -> str:
    return next((name for name, known in VARIANTS.items() if known == config), "custom")


def _with_parity(manifest: Manifest, checks: Sequence[Check]) -> Manifest:
    """The manifest with what the checks measured, the worst over the batch sizes."""

    def measured(name: str, precision: str) -> dict[str, Any]:
        mine = [c for c in checks if (c.component, c.precision) == (name, precision)]
        return {"backend": mine[0].backend, "rows": [c.rows for c in mine], **summarise(mine)}

    components = {
        name: replace(
            component,
            precisions={p: replace(v, parity=measured(name, p)) for p, v in component.precisions.items()},
        )
        for name, component in manifest.components.items()
    }
    run = manifest.reference_run
    if run is not None:
        run = {**run, "parity": {precision: measured(RUN, precision) for precision in run["tolerance"]}}
    return replace(manifest, components=components, reference_run=run)


def _precisions(wanted: Sequence[str]) -> tuple[str, ...]:
    if not wanted or any(p not in PRECISIONS for p in wanted):
        raise RequestError(f"found precisions {', '.join(wanted) or 'none'}, expected some of {', '.join(PRECISIONS)}")
    return tuple(p for p in PRECISIONS if p in wanted)


def _components(files: CheckpointFiles, patterns: Sequence[str]) -> tuple[str, ...]:
    """Components that match: those with weights for a pattern, any for a plain name (which fails where it has none)."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in COMPONENTS):
            raise RequestError(f"unknown component {pattern!r}; there are {', '.join(COMPONENTS)}")

    def there(name: str) -> bool:
        return files.network is not None if name == STEP else name.split("_", 1)[1] in files.autoencoders

    chosen = tuple(
        name
        for name in COMPONENTS
        if name in patterns or (there(name) and any(fnmatchcase(name, pattern) for pattern in patterns))
    )
    if not chosen:
        raise RequestError(f"{files.root} has no weights for {', '.join(patterns)}")
    return chosen
