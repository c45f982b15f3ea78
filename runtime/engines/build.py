"""Building what is missing: one component at a time, each in a process of its own, each appearing whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..backends.cuda_probe import Gpu, gpus
from ..backends.update import UPDATE_MODEL
from ..bundle import Bundle, sha256
from ..components import STEP
from ..errors import BackendError, EngineError, RequestError
from ..folders import whole_file
from .cache import FOLDER, PARTIAL, TIMING_CACHE, engine_path, folder_name, locked, misfit, record_path
from .flavours import Flavour
from .match import PORTABLE
from .options import BuildOptions, refuse_what_lacks
from .record import UPDATE, UPDATE_PRECISION, EngineRecord, differences, onnx_hashes

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """An engine that a call of :func:`build_engines` made, or found; ``reason`` says why it was made, None if found."""

    record: EngineRecord
    path: Path
    reason: str | None


def build_engines(
    bundle: Bundle,
    flavour: Flavour,
    options: BuildOptions,
    *,
    precision: str = "fp16",
    components: Sequence[str] = ("*",),
    progress: Progress = lambda what, done, total: None,
) -> list[Built]:
    """Build engines of ``components`` (names or patterns) in ``precision`` where the cache has none that is the same.

    Raises :class:`RequestError` where a pattern names nothing or ``flavour`` lacks an option, :class:`BackendError`
    where it needs a GPU and there is none, :class:`BundleError` where the bundle lacks the precision,
    :class:`EngineError` where the builder fails.
    """
    refuse_what_lacks(options, flavour)
    names = [name for name in bundle.manifest.components if any(fnmatchcase(name, pattern) for pattern in components)]
    if not components:
        raise RequestError("no component was named; leave --components out to build all")
    for pattern in components:
        if not any(fnmatchcase(name, pattern) for name in bundle.manifest.components):
            raise RequestError(f"{pattern!r} names no component of {bundle.root}; 'copgen-edge info' lists them")
    wanted_in = [(name, bundle.stored_precision(name, precision)) for name in names]
    if STEP in names:
        wanted_in.append((UPDATE, UPDATE_PRECISION))
    expected = [_expected(bundle, flavour, options, name, in_) for name, in_ in wanted_in]
    first = expected[0]
    folder = bundle.root / FOLDER / folder_name(flavour.name, flavour.version, _folder_part(first))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"cannot make the folder {folder}: {error.strerror}; remove what is in its way, or copy the bundle to "
            "where you may write"
        ) from None
    if not os.access(folder, os.W_OK):
        raise RequestError(f"{folder} cannot be written to; copy the bundle to where you may write")
    built = []
    with locked(bundle):
        for done, wanted in enumerate(expected):
            progress(f"engines: {wanted.component}", done, len(expected))
            path = engine_path(folder, wanted.component, wanted.precision)
            reason = _why(bundle, path, wanted)
            record = EngineRecord.read(record_path(path)) if reason is None else _build(bundle, wanted, path, progress)
            built.append(Built(record, path, reason))
    progress("engines", len(expected), len(expected))
    return built


def _expected(bundle: Bundle, flavour: Flavour, options: BuildOptions, component: str, precision: str) -> EngineRecord:
    gpu = None if flavour.is_rtx else _gpu()
    capability = "+".join(options.compute_capabilities) or "any" if gpu is None else gpu.compute_capability
    depth = bundle.manifest.model.get("depth")
    return EngineRecord(
        component=component,
        precision=precision,
        onnx=onnx_hashes(bundle, component, precision),
        flavour=flavour.name,
        version=flavour.version,
        gpu=PORTABLE if gpu is None else gpu.name,
        capability=capability,
        processors=0 if gpu is None else gpu.processors,
        options=options,
        blocks=int(depth) + 1 if component == STEP and depth is not None else None,
    )


def _gpu() -> Gpu:
    found = gpus()
    if not found:
        raise BackendError(
            "tensorrt builds for the GPU of the machine it runs on, and the NVIDIA driver shows none here; build on "
            "the machine that will run the engines, or take --flavour tensorrt-rtx, which builds without one"
        )
    return found[0]


def _folder_part(record: EngineRecord) -> str:
    return PORTABLE if record.capability == "any" else "sm" + record.capability.replace(".", "").replace("+", "-")


def _why(bundle: Bundle, path: Path, wanted: EngineRecord) -> str | None:
    """Why the engine at ``path`` has to be built; None where it is there already."""
    if not path.exists():
        return "it is not there"
    try:
        record = EngineRecord.read(record_path(path))
    except BackendError as error:
        return str(error)
    if told := differences(record, wanted):
        return "; ".join(told)
    return misfit(bundle, path, record)


def _build(bundle: Bundle, wanted: EngineRecord, path: Path, progress: Progress) -> EngineRecord:
    onnx = UPDATE_MODEL if wanted.component == UPDATE else bundle.onnx_path(wanted.component, wanted.precision)
    partial = path.with_name(path.name + PARTIAL)
    request = {
        "flavour": wanted.flavour,
        "options": asdict(wanted.options),
        "onnx": str(onnx.resolve()),
        "out": str(partial.resolve()),
        "timing_cache": str((path.parent / TIMING_CACHE).resolve()),
    }
    try:
        done = _run_worker(request, wanted.component, progress)
        record = replace(
            wanted,
            bytes=partial.stat().st_size,
            sha256=sha256(partial),
            seconds=done["seconds"],
            peak_bytes=done["peak_bytes"],
            attention=done["attention"] if wanted.blocks is not None else None,
            timing_cache=done["timing_cache"],
        )
        # The old record goes first and the new one comes last: at no moment does one tell of another engine.
        record_path(path).unlink(missing_ok=True)
        partial.replace(path)
        with whole_file(record_path(path)) as text:
            text.write_text(record.to_json(), encoding="utf-8")
    finally:
        partial.unlink(missing_ok=True)
    return record


def _run_worker(request: dict[str, Any], component: str, progress: Progress) -> dict[str, Any]:
    command = [sys.executable, "-m", "copgen_edge.runtime.engines.worker"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            # Python looks for modules in the working folder first, and there may be a file of the user's of any name.
            cwd=Path(sys.executable).anchor,
        ) as worker,
    ):
        try:
            if worker.stdin is None or worker.stdout is None:
                raise EngineError("the builder's process has no pipes")
            # A process that has died already says why on its standard error.
            with suppress(BrokenPipeError):
                worker.stdin.write(json.dumps(request) + "\n")
                worker.stdin.close()
            for line in worker.stdout:
                try:
                    told = json.loads(line)
                except ValueError:
                    raise EngineError(
                        f"the builder of {component} said {line.strip()[:200]!r}, expected JSON"
                    ) from None
                if "done" in told:
                    return dict(told["done"])
                if "error" in told:
                    raise EngineError(f"{component}: {told['error']}")
                progress(f"building {component}", told["step"], told["steps"])
        except BaseException:
            worker.kill()
            raise
        worker.wait()
        errors.seek(0)
        last = " ".join(errors.read().split())[-400:]
    raise EngineError(
        f"the builder of {component} ended with {worker.returncode} and no engine: {last or 'no message'}"
    )
