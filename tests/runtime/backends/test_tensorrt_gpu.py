"""Engines on a real GPU, built there: the same numbers as ONNX Runtime on the CPU, captured or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.engines.build import build_engines
from copgen_edge.runtime.engines.flavours import find_flavour
from copgen_edge.runtime.engines.options import BuildOptions
from copgen_edge.runtime.errors import BackendError
from copgen_edge.runtime.parity import compare, probe_inputs

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

NAMES = ("encoder_DEM_DEM", "dit_step", "decoder_S2L2A_B01_B09")
WANTED = "S2L2A_B01_B09"


@pytest.fixture
def built(copy_part: Callable[..., Path]) -> Bundle:
    try:
        flavour = find_flavour()
    except BackendError as error:
        pytest.skip(str(error))
    bundle = Bundle.open(copy_part(*NAMES))
    build_engines(bundle, flavour, BuildOptions(batch=(1, 2, 4)), precision="fp32")
    return bundle


def test_components_are_within_the_manifest_s_tolerance(built: Bundle) -> None:
    engine, plain = (create_backend(built, name, precision="fp32") for name in ("tensorrt", "onnxruntime-cpu"))
    for name in NAMES:
        for rows, seed in ((1, 1), (3, 2), (6, 3)):
            inputs = probe_inputs(name, rows, seed)
            (found,), (expected,) = (backend.run(name, inputs).values() for backend in (engine, plain))
            assert compare(found, expected).relative_l2 < built.variant(name, "fp32").tolerance


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_runs_equal_onnx_runtime_s_through_one_graph(built: Bundle, cuda_graph: bool) -> None:
    engine = Pipeline(built, create_backend(built, "tensorrt", precision="fp32", cuda_graph=cuda_graph))
    plain = Pipeline(built, create_backend(built, "onnxruntime-cpu", precision="fp32"))
    tolerance = float((built.manifest.reference_run or {})["tolerance"]["fp32"])
    noise = np.random.default_rng(0).standard_normal((2, 4, *plain.encode("DEM_DEM", _heights(1)).shape[1:]))
    for rows, seed in ((4, 1), (4, 2), (1, 2), (6, 3)):
        given = {"DEM_DEM": noise[seed % 2][:1].repeat(rows, axis=0).astype(np.float32)}
        found, expected = (p.denoise(given, [WANTED], steps=9, seed=seed)[WANTED] for p in (engine, plain))
        assert compare(found, expected).relative_l2 < tolerance
    assert str(engine.backend.describe()["cuda_graph"]).startswith("yes" if cuda_graph else "no")


def test_captured_and_uncaptured_runs_give_the_same_numbers(built: Bundle) -> None:
    found = []
    for cuda_graph in (True, False):
        pipeline = Pipeline(built, create_backend(built, "tensorrt", precision="fp32", cuda_graph=cuda_graph))
        found.append([pipeline.denoise({}, [WANTED], steps=6, seed=seed)[WANTED] for seed in (1, 2)])
    for captured, plain in zip(*found, strict=True):
        assert (captured == plain).all()


def test_an_engine_for_another_gpu_is_refused(built: Bundle) -> None:
    (folder,) = (built.root / "engines").iterdir()
    for record in folder.glob("*.json"):
        record.write_text(record.read_text().replace('"gpu": "', '"gpu": "Other '))
    with pytest.raises(BackendError, match="found an engine of Other"):
        create_backend(built, "tensorrt", precision="fp32")


def _heights(rows: int) -> np.ndarray:
    return np.zeros((rows, 1, 64, 64), np.float32)
