"""The libraries of the optional extra ``evaluate``, loaded when a metric needs one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BackendError


def library(name: str) -> Any:
    """The module ``name`` of scikit-image, scikit-learn, scipy or matplotlib.

    Raises :class:`BackendError` where it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendError(
            f"found no usable {name} ({error}), which this metric needs; pip install 'copgen-edge[evaluate]'"
        ) from None
