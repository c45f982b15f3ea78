"""Whole runs of the authors' code, reproduced by the exported components under ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.parity import compare

ORT_TOLERANCE = 5e-5
RUNS = (
    "all_from_dem_lulc_place_time",
    "all_from_s2l1c",
    "all_from_dem_clouds_2x2",
    "unconditional",
    "s2l2a_from_s1_rest_absent",
)


def group(arrays: np.lib.npyio.NpzFile, prefix: str) -> dict[str, np.ndarray]:
    return {name.split("/", 1)[1]: arrays[name] for name in arrays if name.startswith(f"{prefix}/")}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("run", RUNS)
def test_the_runs_of_the_authors_code(golden: Path, golden_bundle: Path, run: str, batch: int) -> None:
    case = json.loads((golden / "case.json").read_text())["generate"][run]
    with np.load(golden / f"generate_{run}.npz") as arrays:
        pipeline = Pipeline.load(golden_bundle, backend="onnxruntime-cpu", precision="fp32", batch=batch)
        samples = int(arrays["n_samples"])
        posterior = group(arrays, "posterior_noise")
        conditions = {
            key: pipeline.encode(key, image, posterior.get(key)).repeat(samples, axis=0)
            for key, image in group(arrays, "condition").items()
        }
        assert sorted(conditions) == sorted(case["condition"])
        latents = pipeline.denoise(
            conditions,
            case["generate"],
            steps=int(arrays["steps"]),
            initial_noise=group(arrays, "initial_noise"),
            absent_noise=group(arrays, "absent_noise"),
        )
        expected = group(arrays, "latent")
        assert sorted(latents) == sorted(expected) == sorted(case["generate"])
        for key, latent in latents.items():
            assert compare(latent, expected[key]).relative_l2 <= ORT_TOLERANCE, key
        for key, image in group(arrays, "decoded").items():
            assert compare(pipeline.decode(key, latents[key]), image).relative_l2 <= ORT_TOLERANCE, key
