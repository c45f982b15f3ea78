"""What the runtime loads: no PyTorch, ever, and no inference engine before one is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"
HEAVY = {"torch", "onnx", "onnxscript", "safetensors", "huggingface_hub"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_runtime_loads_no_engine_and_no_torch() -> None:
    loaded = loaded_by("import copgen_edge.runtime as runtime; assert runtime.Pipeline and runtime.CopgenError")
    assert not loaded & (HEAVY | {"onnxruntime", "rasterio", "rich", "click"})
    assert "numpy" in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_no_engine_and_no_torch(arguments: list[str]) -> None:
    loaded = loaded_by(
        "from copgen_edge.runtime.commands import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as stop: assert stop.code == 0"
    )
    assert not loaded & (HEAVY | {"onnxruntime", "rasterio"})


def test_generating_loads_the_engine_and_no_torch(bundle: Path) -> None:
    loaded = loaded_by(
        "import numpy as np\n"
        "from copgen_edge.runtime import Pipeline\n"
        f"pipeline = Pipeline.load({str(bundle)!r}, backend='onnxruntime-cpu')\n"
        "dem = np.full((1, 1, 64, 64), 12.0)\n"
        "found = pipeline.generate({'DEM_DEM': dem}, ['S2L2A_B01_B09', 'date'], samples=1, steps=1)\n"
        "assert found['S2L2A_B01_B09'].shape == (1, 2, 32, 32)"
    )
    assert "onnxruntime" in loaded
    assert not loaded & HEAVY


def test_verifying_with_the_stored_reference_loads_no_torch(bundle: Path) -> None:
    loaded = loaded_by(
        "from copgen_edge.runtime.backends import create_backend\n"
        "from copgen_edge.runtime.bundle import Bundle\n"
        "from copgen_edge.runtime.verification import check_bundle, check_files\n"
        f"bundle = Bundle.open({str(bundle)!r})\n"
        "assert check_files(bundle)\n"
        "assert next(check_bundle(bundle, create_backend(bundle, 'onnxruntime-cpu'))).passed"
    )
    assert not loaded & HEAVY


def imported(path: Path) -> Iterable[tuple[int, str]]:
    """(level, module) of every import statement of a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def test_no_file_of_the_runtime_names_torch_or_another_room() -> None:
    files = sorted(RUNTIME.rglob("*.py"))
    assert len(files) > 20
    for path in files:
        depth = len(path.relative_to(RUNTIME).parts)
        for level, module in imported(path):
            assert level or module.partition(".")[0] not in HEAVY | {"copgen_edge"}, (path, module)
            assert level <= depth, f"{path} reaches above the runtime for {module}"
