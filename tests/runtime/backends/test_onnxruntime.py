"""ONNX Runtime behind the backend contract."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.bundle import Bundle, FileRecord, write_manifest
from copgen_edge.runtime.errors import BackendError, BundleError
from copgen_edge.runtime.parity import compare, probe_inputs
from copgen_edge.runtime.verification import check_bundle

NAME = "decoder_S2L2A_B01_B09"
OTHER = "encoder_S2L2A_B01_B09"


@pytest.fixture
def root(copy_part: Callable[..., Path]) -> Path:
    return copy_part(NAME, OTHER)


def edit_files(root: Path, name: str, precision: str, damage: Callable[[Path], object]) -> Bundle:
    """Damage the graph of a component and let the manifest agree with the damage."""
    manifest = Bundle.open(root).manifest
    component = manifest.components[name]
    variant = component.precisions[precision]
    path = root / variant.files[0].path
    damage(path)
    files = (FileRecord.of(root, path), *variant.files[1:])
    changed = replace(component, precisions={**component.precisions, precision: replace(variant, files=files)})
    write_manifest(root, replace(manifest, components={**manifest.components, name: changed}))
    return Bundle.open(root)


def add_fp16(root: Path, *names: str, fp32: bool = True) -> Bundle:
    """Give components a second precision: the same files under its name."""
    manifest = Bundle.open(root).manifest
    components = dict(manifest.components)
    for name in names:
        single = components[name].precisions["fp32"]
        copies = []
        for record in single.files:
            target = root / record.path.replace("fp32", "fp16")
            shutil.copyfile(root / record.path, target)
            copies.append(FileRecord.of(root, target))
        half = replace(single, files=tuple(copies), tolerance=5e-3)
        precisions = {"fp32": single, "fp16": half} if fp32 else {"fp16": half}
        components[name] = replace(components[name], precisions=precisions)
    write_manifest(root, replace(manifest, components=components))
    return Bundle.open(root)


def test_outputs_come_by_name_and_fit_the_contract(root: Path) -> None:
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    for name, output, shape in ((NAME, "image", (2, 32, 32)), (OTHER, "moments", (16, 4, 4))):
        for rows in (1, 2, 5):
            found = backend.run(name, probe_inputs(name, rows, 3))
            assert list(found) == [output]
            assert found[output].dtype == np.float32
            assert found[output].shape == (rows, *shape)


def test_a_session_is_made_once_and_released_when_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = onnxruntime.InferenceSession

    def count(model: str, *arguments: object, **options: object) -> object:
        made.append(Path(model).name)
        return real(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", count)
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    assert made == []
    backend.load(NAME)
    backend.load(NAME)
    first = backend.run(NAME, probe_inputs(NAME, 1, 3))
    backend.run(NAME, probe_inputs(NAME, 2, 4))
    assert made == [f"{NAME}.fp32.onnx"]
    backend.release(NAME)
    backend.release(NAME)
    again = backend.run(NAME, probe_inputs(NAME, 1, 3))
    assert made == [f"{NAME}.fp32.onnx"] * 2
    np.testing.assert_array_equal(again["image"], first["image"])


def test_an_output_is_the_callers_own(root: Path) -> None:
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    one = backend.run(NAME, probe_inputs(NAME, 1, 3))["image"]
    kept = one.copy()
    other = backend.run(NAME, probe_inputs(NAME, 1, 4))["image"]
    assert compare(other, one).relative_l2 > 1e-3
    np.testing.assert_array_equal(one, kept)


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "gone"])
def test_a_damaged_file_is_never_opened(root: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "onnx" / f"{NAME}.fp32.onnx"
    content = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(content[:1000])
    elif damage == "other bytes":
        path.write_bytes(content[:-9] + b"tampered!")
    else:
        path.unlink()
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: pytest.fail("the file was opened"))
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    with pytest.raises(BundleError, match=f"{NAME}.fp32.onnx .*copy the bundle again"):
        backend.run(NAME, probe_inputs(NAME, 1, 3))
    with pytest.raises(BundleError, match="copy the bundle again"):
        backend.load(NAME)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no model at all\n" * 50),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ],
)
def test_a_file_that_is_no_model_is_a_backend_error_though_its_hash_is_right(
    root: Path, damage: Callable[[Path], object]
) -> None:
    backend = create_backend(edit_files(root, NAME, "fp32", damage), "onnxruntime-cpu")
    with pytest.raises(BackendError, match=f"could not open .*{NAME}.*CPUExecutionProvider") as caught:
        backend.run(NAME, probe_inputs(NAME, 1, 3))
    assert "\n" not in str(caught.value)
    backend.run(OTHER, probe_inputs(OTHER, 1, 3))


def test_inputs_that_do_not_fit_name_the_component(root: Path) -> None:
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    good = probe_inputs(NAME, 1, 3)["latent"]
    for inputs in ({"latent": good[:, :4]}, {"image": good}, {}, {"latent": good.astype(np.float64)}):
        with pytest.raises(BackendError, match=f"{NAME} failed in onnxruntime-cpu: .+") as caught:
            backend.run(NAME, inputs)
        assert "\n" not in str(caught.value)
    assert np.isfinite(backend.run(NAME, {"latent": good})["image"]).all()


def test_a_component_that_the_bundle_lacks(root: Path) -> None:
    backend = create_backend(Bundle.open(root), "onnxruntime-cpu")
    with pytest.raises(BundleError, match="lacks the component dit_step"):
        backend.run("dit_step", {})


def test_the_precision_is_the_one_that_every_component_has(root: Path) -> None:
    both = add_fp16(root, NAME, OTHER)
    assert create_backend(both, "onnxruntime-cpu").precision == "fp32"
    half = create_backend(both, "onnxruntime-cpu", precision="fp16")
    assert half.precision == "fp16"
    (root / "onnx" / f"{NAME}.fp32.onnx").unlink()
    half.run(NAME, probe_inputs(NAME, 1, 3))


def test_auto_takes_what_there_is(root: Path) -> None:
    assert create_backend(add_fp16(root, NAME, OTHER, fp32=False), "onnxruntime-cpu").precision == "fp16"


def test_a_precision_that_is_not_there_is_the_bundles_fault(root: Path) -> None:
    with pytest.raises(BundleError, match=r"has every component in fp32, not in fp16; export it with --precision fp16"):
        create_backend(Bundle.open(root), "onnxruntime-cpu", precision="fp16")
    with pytest.raises(BundleError, match="in fp32, not in fp16"):
        create_backend(add_fp16(root, NAME), "onnxruntime-cpu", precision="fp16")
    mixed = add_fp16(root, NAME, fp32=False)
    for precision in ("auto", "fp32", "fp16"):
        with pytest.raises(BundleError, match=r"no .*precision"):
            create_backend(mixed, "onnxruntime-cpu", precision=precision)


def test_a_description_says_what_runs(root: Path) -> None:
    found = create_backend(Bundle.open(root), "onnxruntime-cpu", threads=1).describe()
    assert found == {
        "backend": "onnxruntime-cpu",
        "provider": "CPUExecutionProvider",
        "device": "CPU",
        "precision": "fp32",
        "reason": "asked for",
        "onnxruntime": onnxruntime.__version__,
        "threads": 1,
    }


def test_threads_reach_the_engine_and_change_no_result(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = onnxruntime.InferenceSession

    def note(model: str, options: onnxruntime.SessionOptions, **rest: object) -> object:
        seen.append(options.intra_op_num_threads)
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    opened, inputs = Bundle.open(root), probe_inputs(NAME, 2, 3)
    found = [create_backend(opened, "onnxruntime-cpu", threads=n).run(NAME, inputs)["image"] for n in (0, 1, 2)]
    assert seen == [0, 1, 2]
    for other in found[1:]:
        assert compare(other, found[0]).relative_l2 <= 1e-6


@pytest.mark.gpu
def test_cuda_agrees_with_the_reference(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    backend = create_backend(opened, "onnxruntime-cuda", precision="fp32")
    assert backend.describe()["provider"] == "CUDAExecutionProvider"
    checks = list(check_bundle(opened, backend))
    assert len(checks) == 22
    assert all(check.passed for check in checks), checks


@pytest.mark.gpu
def test_cuda_gives_each_input_its_own_result(root: Path) -> None:
    opened = Bundle.open(root)
    cuda, cpu = (create_backend(opened, name) for name in ("onnxruntime-cuda", "onnxruntime-cpu"))
    for seed in (1, 2):
        for rows in (1, 3):
            inputs = probe_inputs(NAME, rows, seed)
            found, expected = cuda.run(NAME, inputs)["image"], cpu.run(NAME, inputs)["image"]
            assert compare(found, expected).relative_l2 <= 5e-5
