"""The manifest: what is written is what is read, and whatever is wrong with a bundle is said in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from copgen_edge.runtime.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    Bundle,
    Component,
    FileRecord,
    Manifest,
    Variant,
    describe_modalities,
    read_manifest,
    sha256,
    write_manifest,
)
from copgen_edge.runtime.components import COMPONENTS, TensorSpec, contract
from copgen_edge.runtime.errors import BundleError, RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, KEYS

Content = dict[str, Any]
JUNK: tuple[Any, ...] = (None, [], "junk", 1.5, {"a": 1})
COST = {"flops_per_row": 12, "weight_bytes": 34, "activation_bytes_per_row": 56}
FACTORS = {key: 0.25 + number / 8 for number, key in enumerate(IMAGE_KEYS)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle whose files are there and whose model is not: a network in two precisions and one decoder."""
    root = tmp_path / "bundle"
    for folder in ("onnx", "reference"):
        (root / folder).mkdir(parents=True)

    def record(name: str, content: str) -> FileRecord:
        path = root / name
        path.write_text(content)
        return FileRecord.of(root, path)

    def component(name: str, precisions: tuple[str, ...]) -> Component:
        variants = {
            precision: Variant(
                (
                    record(f"onnx/{name}.{precision}.onnx", f"graph of {name} {precision}"),
                    record(f"onnx/{name}.{precision}.onnx.data", "weights"),
                ),
                5e-5,
                {"relative_l2": 1e-6},
                COST,
            )
            for precision in precisions
        }
        edges, reference = contract(name), record(f"reference/{name}.npz", f"reference of {name}")
        return Component(name, edges.inputs, edges.outputs, 20, reference, variants)

    run = record("reference/run.npz", "run")
    manifest = Manifest(
        model={"weights": "random", "width": 64, "depth": 4, "heads": 4},
        modalities=describe_modalities(FACTORS),
        solver="dpmpp-3s",
        steps=50,
        components={
            "dit_step": component("dit_step", ("fp32", "fp16")),
            "decoder_DEM_DEM": component("decoder_DEM_DEM", ("fp32",)),
        },
        reference_run={
            "file": {"path": run.path, "bytes": run.bytes, "sha256": run.sha256},
            "seed": 1,
            "steps": 4,
            "tolerance": {"fp32": 5e-5, "fp16": 2e-2},
            "parity": {},
        },
        source={"files": []},
        tools={"torch": "2.11 \u2014 naïve"},
    )
    write_manifest(root, manifest)
    return root


def refuse(root: Path, match: str) -> str:
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.open(root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    assert ";" in message, "the message must say what to do next"
    return message


def change(root: Path, edit: Callable[[Content], object]) -> None:
    content = json.loads((root / MANIFEST).read_text())
    edit(content)
    (root / MANIFEST).write_text(json.dumps(content))


def test_what_is_written_is_what_is_read(root: Path) -> None:
    opened = Bundle.open(root)
    text = (root / MANIFEST).read_text(encoding="utf-8")
    again = read_manifest(json.loads(text))
    assert again == opened.manifest
    assert again.to_json() == text
    assert opened.digest == sha256(root / MANIFEST)
    assert opened.scale_factors == {"3d_cartesian_lat_lon": 1.0, **FACTORS, "mean_timestamps": 1.0}
    assert opened.manifest.components["dit_step"].inputs == (
        TensorSpec("latents", "float32", ("batch", 26118)),
        TensorSpec("timesteps", "float32", ("batch", 12)),
    )
    assert opened.variant("dit_step", "fp16").cost == COST
    assert opened.manifest.tools == {"torch": "2.11 \u2014 naïve"}


def test_equal_manifests_give_equal_bytes(root: Path) -> None:
    opened = Bundle.open(root)
    before = (root / MANIFEST).read_bytes()
    turned = replace(
        opened.manifest,
        components={name: opened.component(name) for name in sorted(COMPONENTS) if name in opened.manifest.components},
        model={"heads": 4, "width": 64, "weights": "random", "depth": 4},
    )
    write_manifest(root, turned)
    assert (root / MANIFEST).read_bytes() == before
    assert before.endswith(b"}\n")


def test_the_components_come_in_the_order_of_the_model(root: Path) -> None:
    assert list(Bundle.open(root).manifest.components) == ["dit_step", "decoder_DEM_DEM"]
    assert len(COMPONENTS) == 21
    assert COMPONENTS[10] == "dit_step"


def test_a_manifest_that_a_reader_would_refuse_is_not_written(root: Path) -> None:
    manifest = Bundle.open(root).manifest
    before = (root / MANIFEST).read_bytes()
    with pytest.raises(ValueError, match="solver"):
        write_manifest(root, replace(manifest, solver="euler"))
    with pytest.raises(ValueError, match="scale factor"):
        write_manifest(root, replace(manifest, modalities=describe_modalities(FACTORS | {"DEM_DEM": -1.0})))
    assert (root / MANIFEST).read_bytes() == before
    assert [path.name for path in root.iterdir() if path.is_file()] == [MANIFEST]


def test_a_manifest_is_replaced_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Bundle.open(root).manifest

    def fail(self: Path, target: Path) -> Path:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        write_manifest(root, replace(manifest, steps=7))
    assert Bundle.open(root).manifest.steps == 50


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "copgen-edge export" in refuse(tmp_path, "is no bundle: it has no manifest.json")
    assert "copgen-edge export" in refuse(tmp_path / "none", "is no bundle")
    (tmp_path / MANIFEST).mkdir()
    refuse(tmp_path, "is no bundle")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe{}", b"{}", b'{"schema_version": 1}', b"12"]
)
def test_what_is_no_manifest_is_refused(root: Path, raw: bytes) -> None:
    (root / MANIFEST).write_bytes(raw)
    refuse(root, r"manifest.json cannot be used \(.+\); export or copy the bundle again")


def test_a_manifest_cut_anywhere_is_refused(root: Path) -> None:
    whole = (root / MANIFEST).read_bytes()
    for size in range(0, len(whole) - 2, len(whole) // 61):
        (root / MANIFEST).write_bytes(whole[:size])
        refuse(root, "cannot be used")


@pytest.mark.parametrize(
    "field",
    ["schema_version", "model", "modalities", "solver", "steps", "components", "reference_run", "source", "tools"],
)
def test_a_missing_field_is_named(root: Path, field: str) -> None:
    change(root, lambda content: content.pop(field))
    refuse(root, rf"cannot be used \(it has no '{field}'\)")


@pytest.mark.parametrize("field", ["name", "inputs", "outputs", "opset", "reference", "precisions"])
def test_a_missing_field_of_a_component_is_named(root: Path, field: str) -> None:
    change(root, lambda content: content["components"]["dit_step"].pop(field))
    refuse(root, rf"it has no '{field}'")


@pytest.mark.parametrize("field", ["files", "tolerance", "parity"])
def test_a_missing_field_of_a_precision_is_named(root: Path, field: str) -> None:
    change(root, lambda content: content["components"]["dit_step"]["precisions"]["fp16"].pop(field))
    refuse(root, rf"it has no '{field}'")


@pytest.mark.parametrize("field", ["path", "bytes", "sha256"])
def test_a_missing_field_of_a_file_is_named(root: Path, field: str) -> None:
    change(root, lambda content: content["components"]["dit_step"]["precisions"]["fp32"]["files"][1].pop(field))
    refuse(root, rf"it has no '{field}'")


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, "1", None])
def test_another_schema_is_refused_with_both_versions(root: Path, version: object) -> None:
    change(root, lambda content: content.update(schema_version=version))
    message = refuse(root, "schema version")
    assert f"schema version {version!r}, this program reads {SCHEMA_VERSION}" in message


def drop_last(content: Content) -> None:
    content["modalities"].pop()


def swap_first(content: Content) -> None:
    content["modalities"][0], content["modalities"][1] = content["modalities"][1], content["modalities"][0]


@pytest.mark.parametrize("edit", [drop_last, swap_first])
def test_other_modalities_are_refused(root: Path, edit: Callable[[Content], None]) -> None:
    change(root, edit)
    refuse(root, "not the twelve of this program, in the network's order")


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("S1RTC_vh_vv", "bands", ["vh", "vv"]),
        ("S2L2A_B02_B03_B04_B08", "bands", ["B02", "B03", "B04", "B08"]),
        ("LULC_LULC", "codes", {"1": "water"}),
        ("DEM_DEM", "constants", {"floor": 0.0, "min_log": 0.000006, "max_log": 9.088}),
        ("DEM_DEM", "resolution", 90),
        ("DEM_DEM", "size", 96),
        ("DEM_DEM", "latent_shape", [4, 8, 8]),
        ("DEM_DEM", "units", "ft"),
    ],
)
def test_another_catalogue_is_refused_by_modality_and_field(root: Path, key: str, field: str, value: object) -> None:
    change(root, lambda content: content["modalities"][KEYS.index(key)].update({field: value}))
    refuse(root, rf"modality {key} differs in {field} from this program's catalogue")


@pytest.mark.parametrize("factor", [0, -0.4, float("nan"), float("inf"), "0.4", None])
def test_a_scale_factor_that_is_none_is_refused(root: Path, factor: object) -> None:
    change(root, lambda content: content["modalities"][1].update(scale_factor=factor))
    refuse(root, "a scale factor is not a positive number")


@pytest.mark.parametrize("path", ["../secret.onnx", "/etc/passwd", "onnx/../../x", ".."])
def test_a_path_that_leaves_the_bundle_is_refused(root: Path, path: str) -> None:
    whole = json.loads((root / MANIFEST).read_text())
    places: list[Callable[[Content], Content]] = [
        lambda content: content["components"]["dit_step"]["precisions"]["fp32"]["files"][0],
        lambda content: content["components"]["dit_step"]["reference"],
        lambda content: content["reference_run"]["file"],
    ]
    for place in places:
        content = copy.deepcopy(whole)
        place(content)["path"] = path
        (root / MANIFEST).write_text(json.dumps(content))
        assert path in refuse(root, "leaves the bundle")


@pytest.mark.parametrize(
    ("solver", "steps"), [("euler", 50), (None, 50), (["ddim"], 50), ("ddim", 0), ("ddim", 1001), ("ddim", 2.5)]
)
def test_a_solver_or_a_step_count_that_is_none_is_refused(root: Path, solver: object, steps: object) -> None:
    change(root, lambda content: content.update(solver=solver, steps=steps))
    refuse(root, "cannot be used")


def test_steps_are_a_number_and_no_truth_value(root: Path) -> None:
    change(root, lambda content: content.update(steps=True))
    refuse(root, "with True steps")


def unknown_component(content: Content) -> None:
    content["components"]["upscaler"] = content["components"]["dit_step"]


def no_components(content: Content) -> None:
    content["components"] = {}


def component_list(content: Content) -> None:
    content["components"] = ["dit_step"]


def misnamed(content: Content) -> None:
    content["components"]["dit_step"]["name"] = "decoder_DEM_DEM"


def no_precisions(content: Content) -> None:
    content["components"]["dit_step"]["precisions"] = {}


def no_files(content: Content) -> None:
    content["components"]["dit_step"]["precisions"]["fp32"]["files"] = []


def lax(content: Content) -> None:
    content["components"]["dit_step"]["precisions"]["fp32"]["tolerance"] = float("inf")


def lax_run(content: Content) -> None:
    content["reference_run"]["tolerance"]["fp32"] = float("nan")


def bare_run(content: Content) -> None:
    del content["reference_run"]["tolerance"]


def other_input(content: Content) -> None:
    content["components"]["dit_step"]["inputs"][0]["name"] = "x"


def no_depth(content: Content) -> None:
    del content["model"]["depth"]


def backward_run(content: Content) -> None:
    content["reference_run"]["steps"] = 0


def true_factor(content: Content) -> None:
    content["modalities"][1]["scale_factor"] = True


def no_weights(content: Content) -> None:
    del content["model"]["weights"]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (unknown_component, r"unknown components \['upscaler'\]"),
        (no_components, "it has no components"),
        (component_list, "cannot be used"),
        (misnamed, "component dit_step has no files or another name"),
        (no_precisions, "component dit_step has no files or another name"),
        (no_files, "component dit_step has no files or another name"),
        (lax, "tolerance inf is not a positive number"),
        (lax_run, "tolerance nan is not a positive number"),
        (bare_run, "it has no 'tolerance'"),
        (other_input, "component dit_step has other inputs or outputs"),
        (no_depth, "it has no 'depth'"),
        (backward_run, "a reference run of 0 steps"),
        (true_factor, "a scale factor is not a positive number"),
        (no_weights, "it has no 'weights'"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(root: Path, edit: Callable[[Content], None], match: str) -> None:
    change(root, edit)
    refuse(root, match)


def test_any_damage_to_a_value_is_a_bundle_error_or_harmless(root: Path) -> None:
    """Every value of the manifest in turn becomes something else: never another kind of exception."""
    whole = json.loads((root / MANIFEST).read_text())

    def places(value: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] + [found for name, inner in items for found in places(inner, (*path, name))]

    refused = 0
    for path in places(whole, ())[1:]:
        if path[0] == "modalities" and path[1:2] != (1,):
            continue  # the twelve are alike
        for junk in JUNK:
            content = copy.deepcopy(whole)
            target = content
            for name in path[:-1]:
                target = target[name]
            target[path[-1]] = junk
            (root / MANIFEST).write_text(json.dumps(content))
            try:
                Bundle.open(root)
            except BundleError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 200


def test_a_bundle_from_before_costs_were_kept_opens(root: Path) -> None:
    def forget(content: Content) -> None:
        for component in content["components"].values():
            for variant in component["precisions"].values():
                del variant["cost"]

    change(root, forget)
    opened = Bundle.open(root)
    assert opened.variant("dit_step", "fp32").cost == {}
    write_manifest(root, opened.manifest)
    assert Bundle.open(root).manifest == opened.manifest


@pytest.mark.parametrize("value", [None, [], "12", 12])
def test_a_cost_that_is_no_object_is_refused(root: Path, value: object) -> None:
    change(root, lambda content: content["components"]["dit_step"]["precisions"]["fp32"].update(cost=value))
    refuse(root, "is no JSON object")


@pytest.mark.parametrize("value", [None, [], "12", 1.5, True, -1])
def test_a_cost_that_is_no_count_is_refused(root: Path, value: object) -> None:
    change(
        root, lambda content: content["components"]["dit_step"]["precisions"]["fp32"]["cost"].update(weight_bytes=value)
    )
    refuse(root, "weight_bytes .* is no whole number of 0 or more")


def test_a_cost_that_is_not_whole_is_refused(root: Path) -> None:
    change(root, lambda content: content["components"]["dit_step"]["precisions"]["fp32"]["cost"].pop("flops_per_row"))
    refuse(root, "it has no 'flops_per_row'")


def test_files_are_checked_before_they_are_named(root: Path) -> None:
    opened = Bundle.open(root)
    assert opened.onnx_path("dit_step", "fp16") == root / "onnx/dit_step.fp16.onnx"
    assert opened.onnx_path("dit_step", "fp16").read_text() == "graph of dit_step fp16"


@pytest.mark.parametrize("name", ["onnx/dit_step.fp32.onnx", "onnx/dit_step.fp32.onnx.data"])
def test_a_file_that_is_missing_short_or_tampered_with_is_named(root: Path, name: str) -> None:
    opened = Bundle.open(root)
    path = root / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"bytes, the manifest says \d+; copy the bundle again") as short:
        opened.onnx_path("dit_step", "fp32")
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(BundleError, match=r"SHA-256 differs\); copy the bundle again") as tampered:
        opened.onnx_path("dit_step", "fp32")
    path.unlink()
    with pytest.raises(BundleError, match="is missing; copy the bundle again") as missing:
        opened.onnx_path("dit_step", "fp32")
    path.mkdir()
    with pytest.raises(BundleError, match="is missing; copy the bundle again"):
        opened.onnx_path("dit_step", "fp32")
    for caught in (short, tampered, missing):
        assert str(path) in str(caught.value)
    assert opened.onnx_path("dit_step", "fp16").is_file()


def test_what_the_bundle_lacks_is_named(root: Path) -> None:
    opened = Bundle.open(root)
    with pytest.raises(BundleError, match="lacks the component encoder_DEM_DEM; export it"):
        opened.component("encoder_DEM_DEM")
    with pytest.raises(BundleError, match="has decoder_DEM_DEM in fp32, not in fp16; export that precision"):
        opened.variant("decoder_DEM_DEM", "fp16")
    assert opened.precisions() == ("fp32",)
    assert issubclass(BundleError, RequestError)


def test_a_manifest_nested_beyond_reason_is_refused(root: Path) -> None:
    (root / MANIFEST).write_text("[" * 100_000)
    refuse(root, "cannot be used")


def test_a_bundle_may_have_no_reference_run(root: Path) -> None:
    change(root, lambda content: content.update(reference_run=None))
    assert Bundle.open(root).manifest.reference_run is None


def test_a_bundle_may_be_moved(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert Bundle.open(str(moved)).onnx_path("dit_step", "fp32").is_file()
    assert str(tmp_path) not in (moved / MANIFEST).read_text()


def test_a_record_is_relative_to_the_root(root: Path) -> None:
    record = FileRecord.of(root, root / "onnx" / "dit_step.fp32.onnx")
    assert record.path == "onnx/dit_step.fp32.onnx"
    assert record.bytes == len("graph of dit_step fp32")
    # Of "abc", from FIPS 180-2.
    (root / "abc").write_text("abc")
    assert sha256(root / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_scale_factors_default_to_the_published_ones() -> None:
    described = {m["key"]: m for m in describe_modalities({"DEM_DEM": 0.5})}
    assert described["DEM_DEM"]["scale_factor"] == 0.5
    assert described["LULC_LULC"]["scale_factor"] == 0.464794
