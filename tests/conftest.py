"""Fixtures that several rooms share: recorded tensors, real data, and one bundle exported for the whole session."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    found = SHARED / name
    if not found.is_dir():
        pytest.skip(f"shared/{name} is not beside the project")
    return found


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tensors recorded from the authors' code."""
    return _folder("golden")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real Sentinel data."""
    return _folder("data")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint: the recorded one where it is beside the project, random weights otherwise."""
    if (SHARED / "golden/models").is_dir():
        return SHARED / "golden/models"
    from copgen_edge.copgen_ref.random_weights import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("random") / "checkpoint")


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of ``checkpoint``, all 21 components; tests must not write in it."""
    from copgen_edge.export import exporter

    out = tmp_path_factory.mktemp("exported") / "bundle"
    exporter.export_bundle(checkpoint, out, workers=2)
    return out


@pytest.fixture(scope="session")
def golden_bundle(golden: Path, bundle: Path) -> Path:
    """``bundle``, where it is the recorded checkpoint's."""
    return bundle
