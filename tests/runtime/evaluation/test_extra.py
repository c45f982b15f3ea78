"""The optional libraries: not loaded before a metric needs one, and missed in plain words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from copgen_edge.runtime.errors import BackendError
from copgen_edge.runtime.evaluation.codes import code_scores
from copgen_edge.runtime.evaluation.extra import library
from copgen_edge.runtime.evaluation.regression import similarity
from copgen_edge.runtime.evaluation.spectra import intra_set_distance, wasserstein

RAMP = np.tile(np.linspace(0, 1, 12), (1, 1, 12, 1))
CODES = np.zeros((1, 1, 2, 2), int)


def test_a_library_that_is_there_is_given() -> None:
    assert library("json").loads("[1]") == [1]


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("skimage.metrics", lambda: similarity("DEM_DEM", RAMP, RAMP)),
        ("sklearn.metrics", lambda: code_scores("LULC_LULC", CODES, CODES)),
        ("scipy.stats", lambda: wasserstein([[1.0]], [[2.0]])),
        ("scipy.spatial.distance", lambda: intra_set_distance([[1.0], [2.0]])),
    ],
)
def test_a_missing_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str, call: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendError, match=r"pip install 'copgen-edge\[evaluate\]'") as caught:
        call()
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_every_metric_loads_none_of_them() -> None:
    names = ["bootstrap", "codes", "drift", "ensemble", "folder", "regression", "results", "scalars", "spectra"]
    code = "".join(f"import copgen_edge.runtime.evaluation.{name}\n" for name in names)
    code += "import sys\nprint(sorted({'scipy', 'skimage', 'sklearn', 'matplotlib', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
