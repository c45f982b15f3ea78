"""Parts of the exported bundle that a test may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from copgen_edge.runtime.bundle import Bundle, write_manifest

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
