"""Verification passes on what was exported, and fails on anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from copgen_edge.runtime.backends import Arrays, Backend, create_backend
from copgen_edge.runtime.backends.host_loop import denoise_on_host
from copgen_edge.runtime.bundle import Bundle, FileRecord, write_manifest
from copgen_edge.runtime.components import COMPONENTS, STEP
from copgen_edge.runtime.errors import BundleError
from copgen_edge.runtime.parity import PROBE_SEED, RUN_STEPS, Figures
from copgen_edge.runtime.verification import RUN, Check, check_bundle, check_files, short_run, summarise
from numpy.typing import NDArray

DECODER = "decoder_S2L2A_B01_B09"
ENCODER = "encoder_S2L2A_B01_B09"
CopyPart = Callable[..., Path]


@pytest.fixture
def reference(checkpoint: Path) -> Backend:
    from copgen_edge.copgen_ref.files import find_checkpoint
    from copgen_edge.export.reference_backend import ReferenceBackend

    return ReferenceBackend(find_checkpoint(checkpoint))


def on_cpu(root: Path) -> tuple[Bundle, Backend]:
    opened = Bundle.open(root)
    return opened, create_backend(opened, "onnxruntime-cpu", precision="fp32")


def perturb(root: Path, name: str, share: float) -> None:
    """Make the largest weight of a component larger by a share, and let the manifest agree with it."""
    manifest = Bundle.open(root).manifest
    component = manifest.components[name]
    variant = component.precisions["fp32"]
    path = root / variant.files[0].path
    model = onnx.load(path)
    weight = max(
        (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT),
        key=lambda tensor: np.prod(tensor.dims),
    )
    values = onnx.numpy_helper.to_array(weight) * np.float32(1 + share)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    changed = replace(component, precisions={"fp32": replace(variant, files=(FileRecord.of(root, path),))})
    write_manifest(root, replace(manifest, components={**manifest.components, name: changed}))


def test_the_whole_bundle_agrees_with_what_it_carries(bundle: Path) -> None:
    checks = list(check_bundle(*on_cpu(bundle)))
    assert [check.component for check in checks] == [*COMPONENTS, RUN]
    for check in checks:
        assert check.passed, check
        assert (check.reference, check.rows, check.precision, check.backend) == ("stored", 1, "fp32", "onnxruntime-cpu")
        assert check.figures.relative_l2 <= check.tolerance == 5e-5
        assert check.figures.cosine > 0.999999


def test_a_part_agrees_with_the_running_reference(copy_part: CopyPart, reference: Backend) -> None:
    opened, backend = on_cpu(copy_part(DECODER, STEP, ENCODER))
    checks = list(check_bundle(opened, backend, reference=reference, seed=12345))
    assert [(check.component, check.rows) for check in checks] == [
        (ENCODER, 1),
        (ENCODER, 3),
        (STEP, 1),
        (STEP, 3),
        (DECODER, 1),
        (DECODER, 3),
        (RUN, 1),
    ]
    assert all(check.passed and check.reference == "live" for check in checks)
    others = list(check_bundle(opened, backend, reference=reference, seed=54321))
    assert [check.figures for check in others] != [check.figures for check in checks]


def test_a_weight_that_is_off_fails_its_component_and_no_other(copy_part: CopyPart, reference: Backend) -> None:
    root = copy_part(DECODER, ENCODER)
    perturb(root, DECODER, 0.0)
    assert all(check.passed for check in check_bundle(*on_cpu(root)))
    perturb(root, DECODER, 0.01)
    for against in (None, reference):
        checks = list(check_bundle(*on_cpu(root), reference=against))
        assert {check.component for check in checks if check.passed} == {ENCODER}
        failed = [check for check in checks if not check.passed]
        assert {check.component for check in failed} == {DECODER}
        assert all(check.figures.relative_l2 > check.tolerance for check in failed)
        assert all(check.to_dict()["passed"] is False for check in failed)


def test_a_network_that_is_off_fails_the_run_too(copy_part: CopyPart) -> None:
    root = copy_part(STEP)
    perturb(root, STEP, 0.01)
    checks = {check.component: check for check in check_bundle(*on_cpu(root))}
    assert set(checks) == {STEP, RUN}
    assert not checks[STEP].passed
    assert not checks[RUN].passed


def test_another_solver_fails_the_run_alone(copy_part: CopyPart) -> None:
    root = copy_part(STEP)
    write_manifest(root, replace(Bundle.open(root).manifest, solver="ddim"))
    checks = {check.component: check for check in check_bundle(*on_cpu(root))}
    assert checks[STEP].passed
    assert not checks[RUN].passed


class Broken:
    """A real backend whose outputs are not finite."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.precision, self.reason = backend.name, backend.precision, backend.reason
        self.describe, self.load, self.release = backend.describe, backend.load, backend.release
        self.check = backend.check

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        return {name: values * np.float32(np.nan) for name, values in self._backend.run(component, inputs).items()}

    def denoise(self, *arguments: Any) -> NDArray[np.float32]:
        return denoise_on_host(self, *arguments)


def test_nan_fails(copy_part: CopyPart) -> None:
    opened, backend = on_cpu(copy_part(DECODER))
    (check,) = check_bundle(opened, Broken(backend))
    assert not check.passed
    assert check.figures.relative_l2 == np.inf


def test_components_are_released_before_the_next(copy_part: CopyPart) -> None:
    opened, backend = on_cpu(copy_part(DECODER, ENCODER, STEP))
    events: list[tuple[str, str]] = []

    class Watched(Broken):
        def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
            events.append(("run", component))
            return self._backend.run(component, inputs)

    watched = Watched(backend)
    watched.release = lambda component: events.append(("release", component))  # type: ignore[method-assign]
    list(check_bundle(opened, watched))
    assert events == [
        ("run", ENCODER),
        ("release", ENCODER),
        ("run", STEP),
        ("release", STEP),
        ("run", DECODER),
        ("release", DECODER),
        *[("run", STEP)] * RUN_STEPS,
        ("release", STEP),
    ]


def test_the_short_run_is_every_modality_and_repeatable(copy_part: CopyPart) -> None:
    opened, backend = on_cpu(copy_part(STEP))
    one, again, other = (short_run(opened, backend, seed=seed) for seed in (1, 1, 2))
    assert len(one) == 12
    for key, values in one.items():
        np.testing.assert_array_equal(values, again[key])
        assert not np.isclose(values, other[key]).all()


def test_files_are_counted_and_checked(bundle: Path, copy_part: CopyPart) -> None:
    manifest = Bundle.open(bundle).manifest
    graphs = sum(len(v.files) for c in manifest.components.values() for v in c.precisions.values())
    # A reference for each component, and one for the run.
    assert check_files(Bundle.open(bundle)) == graphs + 21 + 1
    root = copy_part(DECODER, STEP)
    opened = Bundle.open(root)
    assert check_files(opened) == 5
    for name in (f"onnx/{STEP}.fp32.onnx", f"reference/{DECODER}.npz", "reference/run.npz"):
        path = root / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name} is not the file that was exported"):
            check_files(opened)
        path.write_bytes(content)
    assert check_files(opened) == 5


def test_a_damaged_reference_is_not_compared_with(copy_part: CopyPart) -> None:
    root = copy_part(DECODER)
    (root / "reference" / f"{DECODER}.npz").write_bytes(b"x")
    with pytest.raises(BundleError, match="the manifest says"):
        list(check_bundle(*on_cpu(root)))


def test_a_network_without_a_reference_run_is_said(copy_part: CopyPart) -> None:
    root = copy_part(STEP)
    write_manifest(root, replace(Bundle.open(root).manifest, reference_run=None))
    with pytest.raises(BundleError, match="has a network but no reference run; export it again"):
        list(check_bundle(*on_cpu(root)))


def test_the_manifest_holds_what_was_measured_at_export(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    for component in manifest.components.values():
        for variant in component.precisions.values():
            assert 0 < variant.parity["relative_l2"] <= variant.tolerance
            assert variant.parity["rows"] == [1, 3]
    assert manifest.reference_run is not None
    assert manifest.reference_run["seed"] == PROBE_SEED
    assert manifest.reference_run["steps"] == RUN_STEPS


def test_several_checks_are_summed_up_by_the_worst() -> None:
    checks = [
        Check(DECODER, "fp32", "onnxruntime-cpu", "live", rows, Figures(rows, 0.1 / rows, 0.9, 0.5), 5e-5)
        for rows in (1, 3)
    ]
    assert summarise(checks) == {"max_abs": 3, "relative_l2": 0.1, "cosine": 0.9, "p99_9": 0.5}
    assert checks[0].to_dict() == {
        "component": DECODER,
        "precision": "fp32",
        "backend": "onnxruntime-cpu",
        "reference": "live",
        "rows": 1,
        "max_abs": 1,
        "relative_l2": 0.1,
        "cosine": 0.9,
        "p99_9": 0.5,
        "tolerance": 5e-5,
        "passed": False,
    }


def test_the_tolerance_itself_passes() -> None:
    def check(error: float) -> bool:
        return Check(DECODER, "fp32", "x", "live", 1, Figures(error, error, 1.0, error), 5e-5).passed

    assert check(5e-5)
    assert not check(5.0001e-5)
    assert not check(float("nan"))
