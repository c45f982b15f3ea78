"""A scene of the made-up world, and a request on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from copgen_edge.copgen_ref.world_scene import WorldScene, write_world_scene

from ..conftest import Outcome, Run


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> WorldScene:
    return write_world_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def generate(run: Run, bundle: Path, scene: WorldScene, tmp_path: Path) -> Run:
    """Runs ``generate`` with two steps on the scene's elevation; further arguments come after."""

    def call(*arguments: object, out: Path = tmp_path / "out") -> Outcome:
        return run("generate", bundle, "-c", f"DEM={scene.dem}", "--steps", 2, "--out", out, *arguments)

    return call
