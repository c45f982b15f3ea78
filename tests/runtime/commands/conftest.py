"""A scene of the made-up world and a way to run the command line as a user does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from copgen_edge.copgen_ref.world_scene import WorldScene, write_world_scene
from copgen_edge.runtime.commands import main


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> WorldScene:
    return write_world_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def run() -> Run:
    """Runs ``copgen-edge`` with the arguments given; anything but an orderly exit is raised."""

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def generate(run: Run, bundle: Path, scene: WorldScene, tmp_path: Path) -> Run:
    """Runs ``generate`` with two steps on the scene's elevation; further arguments come after."""

    def call(*arguments: object, out: Path = tmp_path / "out") -> Outcome:
        return run("generate", bundle, "-c", f"DEM={scene.dem}", "--steps", 2, "--out", out, *arguments)

    return call
