"""Parts of the exported bundle that a test may damage, and a way to run the command line as a user does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from copgen_edge.runtime.bundle import Bundle, write_manifest
from copgen_edge.runtime.commands import main

CopyPart = Callable[..., Path]


@pytest.fixture
def copy_part(bundle: Path, tmp_path: Path) -> CopyPart:
    """``copy_part(*components)``: a bundle of those components alone, in the test's own folder."""

    def copy(*components: str) -> Path:
        opened = Bundle.open(bundle)
        manifest = opened.manifest
        kept = {name: opened.component(name) for name in components}
        run = manifest.reference_run if "dit_step" in components else None
        paths = [record.path for c in kept.values() for v in c.precisions.values() for record in v.files]
        paths += [component.reference.path for component in kept.values()]
        paths += [run["file"]["path"]] if run is not None else []
        target = tmp_path / "part"
        for path in paths:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / path, target / path)
        write_manifest(target, replace(manifest, components=kept, reference_run=run))
        return target

    return copy


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


@pytest.fixture
def run() -> Run:
    """Runs ``copgen-edge`` with the arguments given; anything but an orderly exit is raised."""

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call
