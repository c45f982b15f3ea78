"""``copgen-edge verify``: is the bundle whole, and does it compute here what its reference computed?"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from ..backends import BACKENDS, Backend, create_backend
from ..bundle import Bundle
from ..drift import Drift, measure_drift
from ..engines.match import built_precisions
from ..errors import ParityError, RequestError
from ..modalities import get
from ..parity import PROBE_SEED
from ..precision import RUNS
from ..solver import MAX_STEPS, make_plan
from ..verification import check_bundle, check_files
from .common import bundle_argument, emit, json_option, need, progress_bar, quiet_option, say
from .tables import check_table, drift_table


@click.command("verify")
@bundle_argument
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Compare with the PyTorch reference itself on fresh inputs, not with the outputs the bundle carries.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@click.option(
    "--drift",
    type=click.IntRange(1, MAX_STEPS),
    metavar="STEPS",
    help="Also run so many steps beside ONNX Runtime in fp32 on the CPU: how far apart are the latents after each?",
)
@quiet_option
@json_option
def command(bundle: str, checkpoint: Path | None, backend: str, drift: int | None, quiet: bool, as_json: bool) -> None:
    """Check a bundle: hashes, manifest, then each component and a short run against the reference.

    Without --checkpoint the outputs that the reference gave at export, carried by the bundle, are compared, so no
    PyTorch is needed. Exit code 1 where a component is over its tolerance, 2 where a file is not what was exported.
    """
    opened = Bundle.open(bundle)
    tell = say(quiet)
    tell(f"{check_files(opened)} files have the sizes and hashes of the manifest")
    reference, seed = None, None
    if checkpoint is not None:
        files = need("copgen_ref.files").find_checkpoint(checkpoint)
        _check_scale_factors(opened, files.scale_factors)
        reference = need("export.reference_backend").ReferenceBackend(
            files.with_heads(opened.manifest.model.get("heads"))
        )
        seed = secrets.randbits(32)
        tell(f"fresh inputs from seed {seed}")
    checks = []
    drifts: dict[str, list[Drift]] = {}
    # Engines are built in a precision of the bundle's, and seldom in all of them.
    built = built_precisions(opened) if backend == "tensorrt" else ()
    name = backend if backend == "tensorrt" else create_backend(opened, backend).name
    precisions = [precision for precision in built or opened.precisions() if precision in RUNS[name]]
    if drift is not None and "fp32" not in opened.precisions():
        raise RequestError(f"{bundle} has no fp32 to drift from; export it with --precision fp32,fp16")
    with progress_bar(quiet) as progress:
        for number, precision in enumerate(precisions):
            runner = create_backend(opened, backend, precision=precision)
            if number == 0:
                tell(f"backend: {runner.name} ({runner.reason})")
            total = len(opened.manifest.components) + 1
            seen: set[str] = set()
            for check in check_bundle(opened, runner, reference=reference, seed=seed):
                checks.append(check)
                seen.add(check.component)
                progress(f"verify {check.component} {precision}", number * total + len(seen), total * len(precisions))
            if drift is not None:
                drifts[precision] = _measure_drift(opened, runner, drift, progress)
    if not quiet:
        check_table(checks)
        for precision, measured in drifts.items():
            tell(f"latents of {runner.name} in {precision} against those of onnxruntime-cpu in fp32, after each call:")
            drift_table(measured)
    if as_json:
        plain = {precision: [one.to_dict() for one in measured] for precision, measured in drifts.items()}
        emit({"bundle": bundle, "seed": seed, "checks": [check.to_dict() for check in checks], "drift": plain})
    if failed := [f"{check.component} {check.precision}" for check in checks if not check.passed]:
        # A component is checked at several batch sizes; naming it once is enough.
        names = ", ".join(dict.fromkeys(failed))
        raise ParityError(f"{len(failed)} of {len(checks)} checks are over their tolerance: {names}")
    tell(f"all {len(checks)} checks are within their tolerances")


def _measure_drift(
    bundle: Bundle, runner: Backend, steps: int, progress: Callable[[str, int, int], None]
) -> list[Drift]:
    reference = create_backend(bundle, "onnxruntime-cpu", precision="fp32")
    plan = make_plan(bundle.manifest.solver, steps)
    what = f"drift of {runner.precision}"
    return measure_drift(
        runner, reference, plan, seed=PROBE_SEED, report=lambda done: progress(what, done, 2 * len(plan))
    )


def _check_scale_factors(bundle: Bundle, of_checkpoint: Mapping[str, float]) -> None:
    """Encoders give unscaled moments, so no comparison of components would see a scale factor that was changed."""
    for key, found in bundle.scale_factors.items():
        expected = of_checkpoint.get(key, get(key).scale_factor)
        if found != expected:
            raise ParityError(
                f"the bundle scales the latent of {key} by {found}, the checkpoint by {expected}; export again"
            )
