"""Which precision a backend runs a bundle in: what was asked for, or the fastest whose measured drift will do."""

from __future__ import annotations

from collections.abc import Mapping

from .bundle import PRECISIONS, QUANTISED, Bundle
from .components import STEP
from .errors import BundleError, RequestError

WANTED = ("auto", "fp32", "fp16", "int8", "fp8", "int8-weights", "int4-weights")
"""What a user may ask for; a backend has its own form of INT8 and FP8."""

RUNS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime-cpu": ("int8", "int8-weights", "int4-weights", "fp32", "fp16"),
    "onnxruntime-cuda": ("fp16", "fp32"),
    "tensorrt": ("fp8-qdq", "int8-qdq", "int4-weights-qdq", "fp16", "fp32"),
}
"""What each backend runs, the fastest first."""


def form_for(backend: str, wanted: str) -> str:
    """The precision of a bundle that ``wanted``, one of :data:`WANTED` or of a bundle's, is on ``backend``."""
    own = f"{wanted}-qdq"
    return own if own in RUNS[backend] else wanted


def choose_precision(
    bundle: Bundle, backend: str, wanted: str = "auto", max_drift: float | None = None
) -> tuple[str, str]:
    """The precision of ``bundle`` that ``backend`` runs for ``wanted``, and a note on the choice ('' where there was
    none).

    ``auto`` takes fp16 on a GPU and fp32 on a CPU, as far as every component is there in it. With ``max_drift`` it
    takes the fastest whose whole runs were measured to drift no further, relative L2 of the latents; fp32 does not
    drift. Raises :class:`BundleError` where the bundle lacks what is wanted and where nothing drifts so little,
    :class:`RequestError` for a negative ``max_drift`` or one given with a precision that it cannot change.
    """
    there = bundle.precisions()
    if max_drift is not None and not 0 <= max_drift < float("inf"):
        raise RequestError(f"found a largest drift of {max_drift}, expected a number of 0 or more, such as 0.02")
    if wanted != "auto":
        return _asked_for(bundle, backend, form_for(backend, wanted), there, max_drift), ""
    usable = [precision for precision in RUNS[backend] if precision in there]
    plain = [precision for precision in usable if precision in PRECISIONS]
    quantised = {p: _drift(bundle, p) for p in usable if p in QUANTISED}
    if max_drift is not None:
        for precision in usable:
            drift = _drift(bundle, precision)
            if drift is not None and drift <= max_drift:
                return precision, f"{precision}: its runs drift by {drift:.2g}, {max_drift:g} is allowed"
        raise BundleError(
            f"{bundle.root} has nothing whose measured drift is {max_drift:g} or less for {backend}: "
            f"{_drifts(bundle, usable)}; allow more with --max-drift, or leave it out"
        )
    if not plain:
        raise BundleError(f"{bundle.root} has no precision in which every component is there; export it again")
    note = ""
    if measured := {p: drift for p, drift in quantised.items() if drift is not None}:
        told = ", ".join(f"{p} (drift {drift:.2g})" for p, drift in measured.items())
        note = f"{plain[0]}; --max-drift would allow {told}"
    return plain[0], note


def _asked_for(bundle: Bundle, backend: str, precision: str, there: tuple[str, ...], max_drift: float | None) -> str:
    if precision not in RUNS[backend]:
        raise BundleError(
            f"{backend} does not run {precision}, only {', '.join(RUNS[backend])}; choose one of these or another "
            "--backend"
        )
    if precision not in there:
        how = (
            "make it with 'copgen-edge quantize'"
            if precision in QUANTISED
            else f"export it with --precision {precision}"
        )
        raise BundleError(
            f"{bundle.root} has every component in {', '.join(there) or 'no one precision'}, not in {precision}; {how}"
        )
    if max_drift is not None:
        drift = _drift(bundle, precision)
        if drift is None or drift > max_drift:
            found = "was not measured" if drift is None else f"is {drift:.2g}"
            raise RequestError(
                f"the drift of {precision} {found} and {max_drift:g} was allowed; leave --precision to auto, or allow "
                "more"
            )
    return precision


def _drift(bundle: Bundle, precision: str) -> float | None:
    if precision == "fp32":
        return 0.0
    if STEP not in bundle.manifest.components:
        return None
    return bundle.variant(STEP, precision).run_drift


def _drifts(bundle: Bundle, precisions: list[str]) -> str:
    found = [(precision, _drift(bundle, precision)) for precision in precisions]
    return ", ".join(f"{p} {'was not measured' if d is None else f'{d:.2g}'}" for p, d in found) or "it has none"
