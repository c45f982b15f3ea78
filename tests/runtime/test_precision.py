"""Which precision a backend takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from copgen_edge.runtime.bundle import Bundle, Variant, read_manifest
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import BundleError, RequestError
from copgen_edge.runtime.precision import choose_precision, form_for


def with_precisions(bundle: Path, drifts: dict[str, float | None]) -> Bundle:
    """The bundle, all of it in fp16 too, and its network in the quantised precisions of ``drifts``."""
    opened = Bundle.open(bundle)
    components = {}
    for name, one in opened.manifest.components.items():
        plain = one.precisions["fp32"]
        known = {"fp32": plain, "fp16": plain}
        if name == STEP:
            for precision, drift in drifts.items():
                measured = {} if drift is None else {"run_drift": drift}
                known[precision] = Variant(plain.files, 0.1, {}, {}, measured)
        components[name] = replace(one, precisions=known)
    return replace(opened, manifest=replace(opened.manifest, components=components))


@pytest.fixture
def quantised(bundle: Path) -> Bundle:
    return with_precisions(
        bundle, {"fp16": 0.001, "int8": 0.04, "int8-weights": 0.02, "int8-qdq": 0.03, "fp8-qdq": None}
    )


@pytest.mark.parametrize(
    ("backend", "max_drift", "expected"),
    [
        ("onnxruntime-cpu", None, "fp32"),
        ("onnxruntime-cpu", 0.05, "int8"),
        ("onnxruntime-cpu", 0.04, "int8"),
        ("onnxruntime-cpu", 0.03, "int8-weights"),
        ("onnxruntime-cpu", 0.0, "fp32"),
        ("onnxruntime-cuda", None, "fp16"),
        ("onnxruntime-cuda", 0.05, "fp16"),
        ("onnxruntime-cuda", 0.0001, "fp32"),
        ("tensorrt", None, "fp16"),
        # FP8 would be faster, but nobody measured its drift.
        ("tensorrt", 0.05, "int8-qdq"),
        ("tensorrt", 0.02, "fp16"),
    ],
)
def test_auto_takes_the_fastest_that_drifts_no_further(
    quantised: Bundle, backend: str, max_drift: float | None, expected: str
) -> None:
    precision, note = choose_precision(quantised, backend, max_drift=max_drift)
    assert precision == expected
    if max_drift is not None:
        assert note.startswith(f"{expected}: its runs drift by")
    if max_drift is None and backend == "onnxruntime-cpu":
        assert "--max-drift would allow int8 (drift 0.04), int8-weights (drift 0.02)" in note


def test_a_name_is_the_backends_own_form(quantised: Bundle) -> None:
    assert form_for("tensorrt", "int8") == "int8-qdq"
    assert form_for("tensorrt", "fp8") == "fp8-qdq"
    assert form_for("onnxruntime-cpu", "int8") == "int8"
    assert choose_precision(quantised, "tensorrt", "int8") == ("int8-qdq", "")
    assert choose_precision(quantised, "onnxruntime-cpu", "int8", 0.1) == ("int8", "")


def test_what_cannot_be_is_refused(quantised: Bundle, bundle: Path) -> None:
    with pytest.raises(BundleError, match="not in int8; make it with 'copgen-edge quantize'"):
        choose_precision(Bundle.open(bundle), "onnxruntime-cpu", "int8")
    with pytest.raises(BundleError, match="onnxruntime-cuda does not run int8, only fp16, fp32"):
        choose_precision(quantised, "onnxruntime-cuda", "int8")
    with pytest.raises(BundleError, match="onnxruntime-cpu does not run fp8, only int8"):
        choose_precision(quantised, "onnxruntime-cpu", "fp8")
    with pytest.raises(RequestError, match=r"the drift of int8 is 0.04 and 0.01 was allowed"):
        choose_precision(quantised, "onnxruntime-cpu", "int8", 0.01)
    with pytest.raises(RequestError, match="the drift of fp8-qdq was not measured and 1 was allowed"):
        choose_precision(quantised, "tensorrt", "fp8", 1.0)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="expected a number of 0 or more"):
            choose_precision(quantised, "onnxruntime-cpu", max_drift=wrong)


def test_where_nothing_is_good_enough_all_drifts_are_told(quantised: Bundle) -> None:
    bare = {
        name: replace(one, precisions={p: v for p, v in one.precisions.items() if p != "fp32"})
        for name, one in quantised.manifest.components.items()
    }
    opened = replace(quantised, manifest=replace(quantised.manifest, components=bare))
    with pytest.raises(BundleError, match=r"0\.0001 or less for tensorrt: fp8-qdq was not measured, int8-qdq 0\.03"):
        choose_precision(opened, "tensorrt", max_drift=0.0001)


def test_components_without_a_variant_run_in_its_base(quantised: Bundle) -> None:
    assert quantised.stored_precision(STEP, "int8") == "int8"
    assert quantised.stored_precision("decoder_DEM_DEM", "int8") == "fp32"
    assert quantised.stored_precision("decoder_DEM_DEM", "int8-qdq") == "fp16"
    assert "int8" in quantised.precisions() and "int4-weights" not in quantised.precisions()
    with pytest.raises(BundleError, match="not in int4-weights; make it with 'copgen-edge quantize'"):
        replace(
            quantised,
            manifest=replace(
                quantised.manifest,
                components={
                    STEP: replace(
                        quantised.component(STEP), precisions={"fp16": quantised.component(STEP).precisions["fp16"]}
                    )
                },
            ),
        ).variant(STEP, "int4-weights")


def test_the_manifest_keeps_what_was_measured(quantised: Bundle) -> None:
    import json

    text = json.loads(quantised.manifest.to_json())
    text["components"][STEP]["precisions"]["int8"]["calibration"]["forms"] = {"heads": "float"}
    for run in (text["reference_run"],):
        run["tolerance"] = dict.fromkeys(text["components"][STEP]["precisions"], 0.1)
    found = read_manifest(text).components[STEP].precisions["int8"]
    assert found.run_drift == 0.04 and found.calibration["forms"] == {"heads": "float"}
    for wrong in (-1, "much", [1]):
        text["components"][STEP]["precisions"]["int8"]["calibration"]["run_drift"] = wrong
        with pytest.raises((ValueError, TypeError)):
            read_manifest(text)
