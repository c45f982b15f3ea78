"""What each group of layers costs in fidelity at each form, measured one group at a time on recorded trajectories.

Two errors are told apart: of a single call, by bands of t, against the fp32 network on the same inputs; and of where a
whole run ends, with the group quantised in the calls of one band, or in all, and the fp32 network in the others, so
that what a network later mends, or makes worse, is in the figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends.onnxruntime import cpu_session
from ..runtime.bundle import Bundle
from ..runtime.components import STEP
from ..runtime.errors import CalibrationError, RequestError
from ..runtime.solver import make_plan
from .judge import Judge, open_variant, rows_of
from .layers import Layer, groups
from .qdq import INT4_BLOCK, RANGED
from .ranges import BAND_EDGES, BANDS, Range, Ranges, measure_ranges
from .replay import band_importance, network_of, starts
from .tap import Tapped
from .trajectories import RecordedRun, Trajectories
from .variants import MIGRATED, TARGETS, quantisable, write_variant

Floats = NDArray[np.float32]
Report = Callable[[str, int, int], None]

RANGE_ROWS = 32
"""Rows on which ranges are measured."""

_BYTES: Mapping[str, float] = {
    "fp32": 4,
    "fp16": 2,
    "blocks8": 1 + 4 / 128,
    "blocks4": 0.5 + 4 / 32,
    "w4": 0.5 + 2 / INT4_BLOCK,
}
"""Bytes a weight, with the scales of blocks; one in all other forms."""


@dataclass(frozen=True)
class Cost:
    """One group (or, under the name ``all``, all layers) in one ``form``.

    ``call``: relative L2 of a single call's output by bands of t, from low to high, None where the band has no row;
    ``run``: that of the latents at the end of whole runs, None where no runs were made; ``run_by_band``: the same with
    the form in the calls of one band alone. ``physical`` is what the first run's decoded values differ by, by
    modality key (:meth:`.judge.Judge.physical`), ``distribution`` what all runs' latents do in
    distribution (:meth:`.judge.Judge.distribution`), of ``all`` alone. ``megabytes`` are of the whole component then,
    ``time`` is a call's share of that of fp32, None where this machine cannot tell it; a group saves its share, by
    products, of what all layers save.
    """

    group: str
    form: str
    layers: tuple[str, ...]
    call: tuple[float | None, ...]
    run: float | None
    run_by_band: tuple[float | None, ...]
    physical: Mapping[str, float]
    distribution: Mapping[str, Mapping[str, float]]
    megabytes: float
    time: float | None

    @property
    def drift(self) -> float:
        """What a plan adds up: of runs, or of single calls where there were no runs."""
        return self.run if self.run is not None else max(error for error in self.call if error is not None)


@dataclass(frozen=True)
class Sensitivity:
    """All costs of one component at one precision, and what they were measured with. ``seconds`` are those of a call
    in fp32, ``megabytes`` the base's; ``seeds`` is the relative L2 between two seeds of the fp32 model, None without
    runs."""

    component: str
    precision: str
    base: Mapping[str, str]
    trajectories: str
    method: str
    steps: int
    seconds: float
    megabytes: float
    seeds: float | None
    change: Mapping[str, float]
    groups: tuple[Cost, ...]
    all: tuple[Cost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"band_edges": BAND_EDGES, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Sensitivity:
        """From :meth:`to_dict`; :class:`CalibrationError` for anything else."""

        def cost(one: Mapping[str, Any]) -> Cost:
            lists = {name: tuple(one[name]) for name in ("layers", "call", "run_by_band")}
            return Cost(**{**one, **lists})

        try:
            found = {name: value for name, value in content.items() if name != "band_edges"}
            costs = {name: tuple(cost(one) for one in found[name]) for name in ("groups", "all")}
            return cls(**{**found, **costs})
        except (KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(
                f"this is no report of 'copgen-edge calibrate sensitivity' ({error}); measure it again"
            ) from None


def held_out(trajectories: Trajectories) -> tuple[tuple[RecordedRun, ...], tuple[RecordedRun, ...]]:
    """The runs on which precision is decided, and the last third, at least one, on which the decision is confirmed.

    Raises :class:`CalibrationError` where there is only one run.
    """
    runs = trajectories.runs
    if len(runs) < 2:
        raise CalibrationError(f"{trajectories.root} has one run; record 2 or more, some to decide on, some to confirm")
    kept = max(1, len(runs) // 3)
    return runs[:-kept], runs[-kept:]


def base_files(bundle: Bundle, component: str, precision: str) -> dict[str, str]:
    """SHA-256 by path of the files that ``precision`` of ``component`` is made from."""
    base = bundle.variant(component, TARGETS[precision].base)
    return {record.path: record.sha256 for record in base.files}


def component_ranges(
    bundle: Bundle, trajectories: Trajectories, component: str, precision: str, method: str, *, threads: int = 0
) -> Ranges:
    """The ranges that ``precision`` of ``component`` needs, from the runs on which precision is decided."""
    runs, _ = held_out(trajectories)
    target = TARGETS[precision]
    found: dict[str, Range] = {}
    if any(form.endswith(MIGRATED) or form in RANGED for form in target.forms):
        layers = quantisable(bundle, component, precision)
        rows = rows_of(trajectories, runs, component, RANGE_ROWS)
        path = bundle.onnx_path(component, "fp32")
        tapped = Tapped(path, [layer.source for layer in layers], threads=threads)
        found = measure_ranges(tapped, layers, rows)
    importance = (1.0,) * BANDS
    if component == STEP and method == "mse":
        network = network_of(cpu_session(bundle.onnx_path(component, "fp32"), threads))
        plan = make_plan(trajectories.solver, trajectories.steps)
        importance = band_importance(network, starts(trajectories, runs[:1])[0], plan)
    return Ranges(found, method, importance)


def measure_sensitivity(
    bundle: Bundle,
    trajectories: Trajectories,
    *,
    precision: str = "int8",
    component: str = STEP,
    method: str = "mse",
    forms: Sequence[str] | None = None,
    replays: int = 2,
    threads: int = 0,
    progress: Report = lambda what, done, total: None,
) -> Sensitivity:
    """What each group of layers of ``component`` costs at each form of ``precision``, a key of :data:`TARGETS`; at
    ``forms`` of them where given.

    ``replays`` whole runs are made for each, none for 0 and for autoencoders; ``method`` is one of
    :data:`~.ranges.METHODS`. Only the runs of :func:`held_out` that are for deciding are used.
    Raises :class:`CalibrationError` for a recording of another model, :class:`RequestError` for a form that the
    precision does not have, and as the parts do.
    """
    runs, _ = held_out(trajectories)
    trajectories.require_model_of(bundle)
    target = TARGETS[precision]
    chosen = target.forms if forms is None else tuple(dict.fromkeys(forms))
    if not chosen or not set(chosen) <= set(target.forms):
        raise RequestError(f"found the forms {', '.join(chosen)}, expected some of {', '.join(target.forms)}")
    layers = quantisable(bundle, component, precision)
    if not layers:
        raise CalibrationError(f"{component} has no layer that {precision} could quantise; choose another precision")
    ranges = component_ranges(bundle, trajectories, component, precision, method, threads=threads)
    judge = Judge(bundle, trajectories, runs, component, threads, replays)
    grouped = groups(layers)
    base = bundle.onnx_path(component, target.base)
    total = len(chosen) * (len(grouped) + 1)
    base_bytes = sum(record.bytes for record in bundle.variant(component, target.base).files)
    products = {layer.path: layer.size * _positions(ranges, layer) for layer in layers}
    whole: list[Cost] = []
    costs: list[Cost] = []
    # What a CPU takes for TensorRT's forms says nothing about a GPU.
    timed = not precision.endswith("-qdq")
    base_seconds, _ = judge.seconds(None)
    for form in chosen:
        progress(f"sensitivity {form} all", len(whole) + len(costs), total)
        all_layers, (at_base, seconds) = _cost(base, component, precision, "all", layers, form, ranges, judge)
        saved = 1 - seconds / at_base
        whole.append(_with(all_layers, base_bytes, layers, target.base, 1 - saved if timed else None))
        for name, members in grouped.items():
            progress(f"sensitivity {form} {name}", len(whole) + len(costs), total)
            cost, _ = _cost(base, component, precision, name, members, form, ranges, judge)
            share = sum(products[layer.path] for layer in members) / sum(products.values())
            costs.append(_with(cost, base_bytes, members, target.base, 1 - saved * share if timed else None))
    progress("sensitivity", total, total)
    return Sensitivity(
        component,
        precision,
        base_files(bundle, component, precision),
        trajectories.digest,
        method,
        trajectories.steps,
        base_seconds,
        base_bytes / 1e6,
        judge.seeds,
        {path: round(found.change(), 3) for path, found in ranges.by_path.items()},
        tuple(costs),
        tuple(whole),
    )


def _cost(
    base: Path,
    component: str,
    precision: str,
    name: str,
    layers: Sequence[Layer],
    form: str,
    ranges: Ranges,
    judge: Judge,
) -> tuple[Cost, tuple[float, float]]:
    with tempfile.TemporaryDirectory(prefix="copgen-sensitivity-") as folder:
        path, *_ = write_variant(
            base, component, precision, {layer.path: form for layer in layers}, ranges, Path(folder) / "group.onnx"
        )
        session = open_variant(path, form, judge.threads)
        call = judge.call_errors(session)
        run = judge.run_errors(network_of(session), group=name != "all")
        seconds = judge.seconds(session) if name == "all" else (0.0, 0.0)
    paths = tuple(layer.path for layer in layers)
    return Cost(name, form, paths, call, run.whole, run.by_band, run.physical, run.distribution, 0.0, None), seconds


def _with(cost: Cost, base_bytes: int, layers: Sequence[Layer], base: str, time: float | None) -> Cost:
    form = cost.form.removesuffix(MIGRATED)
    saved = sum(layer.size for layer in layers) * (_BYTES[base] - _BYTES.get(form, 1))
    return replace(cost, megabytes=(base_bytes - saved) / 1e6, time=time)


def _positions(ranges: Ranges, layer: Layer) -> int:
    return ranges.by_path[layer.path].positions if layer.path in ranges.by_path else 1
