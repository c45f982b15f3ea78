"""Figures that no screen shows, and their bytes."""

from __future__ import annotations

import io
from typing import Any

from .extra import library


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches. Raises :class:`BackendError` where matplotlib is not installed."""
    # Without pyplot: no global state, and no display is looked for.
    return library("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """The figure as a PNG of 100 pixels an inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
