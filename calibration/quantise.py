"""A plan becomes a variant in a bundle, once it was measured as a whole on runs that the plan has not seen."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from ..runtime.backends import create_backend
from ..runtime.backends.onnxruntime import cpu_session
from ..runtime.bundle import Bundle, Component, FileRecord, Manifest, Variant, write_manifest
from ..runtime.components import STEP
from ..runtime.errors import CalibrationError, RequestError
from ..runtime.folders import locked, require_space, sync
from ..runtime.verification import RUN, Check, check_component, check_run, summarise
from .judge import Judge, open_variant
from .plan import Budget, Plan
from .replay import network_of
from .sensitivity import base_files, component_ranges, held_out
from .trajectories import Trajectories
from .variants import TARGETS, write_variant

Report = Callable[[str, int, int], None]

MARGIN = 1.5
"""What a check may find over what was measured here: another machine's kernels round elsewhere."""


@dataclass(frozen=True)
class Measured:
    """A variant on runs that nothing was decided on: relative L2 of single calls by bands of t and of the latents at
    the end of whole runs, what two seeds of fp32 differ by there, and a call's share of the time of fp32.

    ``distribution`` is that of :meth:`.judge.Judge.distribution`.
    """

    call_drift: tuple[float | None, ...]
    run_drift: float | None
    seeds_drift: float | None
    distribution: Mapping[str, Mapping[str, float]]
    time: float
    backend: str
    steps: int
    trajectories: str
    confirmed_on: tuple[str, ...]


def quantise(
    bundle: Bundle,
    plan: Plan,
    trajectories: Trajectories,
    *,
    replays: int = 4,
    overwrite: bool = False,
    threads: int = 0,
    progress: Report = lambda what, done, total: None,
) -> Variant:
    """Write the variant of ``plan`` into ``bundle`` and its manifest, with what it was measured to cost; the variant.

    The manifest is replaced last, and files that it no longer names are removed after it: a kill leaves the bundle as
    it was. ``replays`` whole runs confirm the network, of which a budget of drift needs at least one.
    Raises :class:`CalibrationError` where the plan is of other files or another recording, or the drift on
    unseen runs is over the plan's budget: then nothing has changed; :class:`RequestError` where the bundle has the
    precision already and ``overwrite`` does not allow to replace it.
    """
    trajectories.require_model_of(bundle)
    _check_plan(bundle, plan, trajectories, replays, overwrite)
    component = bundle.component(plan.component)
    base = bundle.variant(plan.component, TARGETS[plan.precision].base)
    with locked(bundle.root, f"another process works on {bundle.root}; wait for it"):
        require_space(bundle.root, 2 * sum(record.bytes for record in base.files), "the quantised component")
        work = Path(tempfile.mkdtemp(prefix=".quantise-", dir=bundle.root))
        try:
            progress("quantise ranges", 0, 4)
            ranges = component_ranges(
                bundle, trajectories, plan.component, plan.precision, plan.method, threads=threads
            )
            progress("quantise write", 1, 4)
            # The name tells plans apart, so that an old file is never overwritten while the old manifest names it.
            name = f"{plan.component}.{plan.precision}.{_digest(plan)}.onnx"
            path = bundle.onnx_path(plan.component, TARGETS[plan.precision].base)
            written = write_variant(path, plan.component, plan.precision, plan.forms, ranges, work / name)
            progress("quantise measure", 2, 4)
            session = open_variant(written[0], " ".join(plan.forms.values()), threads)
            measured = measure(bundle, trajectories, plan.component, session, replays=replays, threads=threads)
            del session
            _keep_budget(plan, measured)
            component = _with_half(bundle, trajectories, component, replays, threads)
            progress("quantise check", 3, 4)
            files = _move(written, bundle.root)
            # The same products, from smaller weights.
            cost = {**base.cost, "weight_bytes": sum(record.bytes for record in files)} if base.cost else {}
            variant = Variant(files, 1.0, {}, cost, _record(plan, measured))
            _take_in(bundle, component, plan.precision, variant)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress("quantise", 4, 4)
    return Bundle.open(bundle.root).component(plan.component).precisions[plan.precision]


def measure(
    bundle: Bundle, trajectories: Trajectories, component: str, session: Any, *, replays: int, threads: int
) -> Measured:
    """What ``session``, a variant of ``component``, costs on the held-out runs, beside fp32 on the CPU."""
    _, runs = held_out(trajectories)
    judge = Judge(bundle, trajectories, runs, component, threads, replays)
    call = judge.call_errors(session)
    network = network_of(session)
    ends = [one.whole(network) for one in judge.replays]
    at_fp32, seconds = judge.seconds(session)
    return Measured(
        call,
        judge.end_error(ends),
        judge.seeds,
        judge.distribution(ends),
        seconds / at_fp32,
        f"onnxruntime-cpu {onnxruntime.__version__}",
        trajectories.steps,
        trajectories.digest,
        tuple(one.source for one in runs),
    )


def _check_plan(bundle: Bundle, plan: Plan, trajectories: Trajectories, replays: int, overwrite: bool) -> None:
    if plan.precision not in TARGETS:
        raise CalibrationError(f"the plan is for {plan.precision!r}, expected one of {', '.join(TARGETS)}; plan again")
    if plan.base != base_files(bundle, plan.component, plan.precision):
        raise CalibrationError(
            f"the plan was made for another {plan.component} than that of {bundle.root}; measure again"
        )
    if plan.trajectories != trajectories.digest:
        raise CalibrationError(f"the plan was made on another recording than {trajectories.root}; give that one")
    if plan.component == STEP and not replays and Budget.parse(plan.budget).quantity == "drift":
        raise RequestError(f"{plan.budget} is about whole runs, and none were to be replayed; give --replays 1 or more")
    if plan.precision in bundle.component(plan.component).precisions and not overwrite:
        raise RequestError(f"{bundle.root} has {plan.component} in {plan.precision} already; --overwrite replaces it")


def _with_half(
    bundle: Bundle, trajectories: Trajectories, component: Component, replays: int, threads: int
) -> Component:
    """``component`` with its fp16 variant, where it has one that was not, measured on the same runs."""
    half = component.precisions.get("fp16")
    if half is None or half.calibration.get("trajectories") == trajectories.digest:
        return component
    session = cpu_session(bundle.onnx_path(component.name, "fp16"), threads)
    measured = measure(bundle, trajectories, component.name, session, replays=replays, threads=threads)
    half = replace(half, calibration=_plain(measured))
    return replace(component, precisions={**component.precisions, "fp16": half})


def _keep_budget(plan: Plan, measured: Measured) -> None:
    budget = Budget.parse(plan.budget)
    if budget.quantity != "drift":
        return
    drift = measured.run_drift
    if drift is None:
        drift = max(error for error in measured.call_drift if error is not None)
    if not drift <= budget.limit:
        raise CalibrationError(
            f"the plan was to keep {plan.budget} and expected {plan.drift:.3g}, but runs that it has not seen drift by "
            f"{drift:.3g}; nothing was written; plan with a smaller budget, or record more runs"
        )


def _record(plan: Plan, measured: Measured) -> dict[str, Any]:
    about = {"budget": plan.budget, "method": plan.method, "expected_drift": plan.drift, "forms": dict(plan.groups)}
    return {**_plain(measured), **about}


def _plain(measured: Measured) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(measured)))
    return found


def _digest(plan: Plan) -> str:
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:8]


def _move(written: Sequence[Path], root: Path) -> tuple[FileRecord, ...]:
    records = []
    for path in written:
        target = root / "onnx" / path.name
        sync(path)
        path.replace(target)
        records.append(FileRecord.of(root, target))
    sync(root / "onnx")
    return tuple(records)


def _take_in(bundle: Bundle, component: Component, precision: str, variant: Variant) -> None:
    old = component.precisions.get(precision)
    runs_here = not precision.endswith("-qdq")
    checks: list[Check] = []
    manifest = _manifest(bundle.manifest, component, precision, variant, 1.0)
    if runs_here:
        # Before the manifest that users read says so, the parts are checked as 'verify' will.
        trial = Bundle(bundle.root, manifest, "")
        backend = create_backend(trial, "onnxruntime-cpu", precision=precision)
        checks = [*check_component(trial, backend, component.name)]
        if component.name == STEP and manifest.reference_run is not None:
            checks.append(check_run(trial, backend))
    parity = {}
    run_tolerance = 1.0
    if checks:
        mine = [check for check in checks if check.component != RUN]
        parity = {"backend": mine[0].backend, "rows": [c.rows for c in mine], **summarise(mine)}
        variant = replace(variant, tolerance=MARGIN * max(c.figures.relative_l2 for c in mine), parity=parity)
        run_tolerance = MARGIN * max((c.figures.relative_l2 for c in checks if c.component == RUN), default=1.0)
    write_manifest(bundle.root, _manifest(bundle.manifest, component, precision, variant, run_tolerance))
    for record in old.files if old is not None else ():
        if record.path not in {kept.path for kept in variant.files}:
            (bundle.root / record.path).unlink(missing_ok=True)


def _manifest(
    manifest: Manifest, component: Component, precision: str, variant: Variant, run_tolerance: float
) -> Manifest:
    changed = replace(component, precisions={**component.precisions, precision: variant})
    run = manifest.reference_run
    if run is not None and component.name == STEP:
        run = {**run, "tolerance": {**run["tolerance"], precision: run_tolerance}}
    return replace(manifest, components={**manifest.components, component.name: changed}, reference_run=run)
