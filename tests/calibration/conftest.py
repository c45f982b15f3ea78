"""A recording of the small bundle by a pretended engine: quick, and as good as any where only numbers are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from copgen_edge.calibration.trajectories import Trajectories

from .small_recording import small


@pytest.fixture(scope="session")
def recording(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Tests must not write in it."""
    return small(bundle, tmp_path_factory.mktemp("recording") / "calib")
