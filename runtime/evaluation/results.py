"""Results as JSON can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np


def plain(result: Any) -> Any:
    """``result`` (dataclasses, mappings, sequences, arrays and numbers, nested at will) as dicts, lists and numbers.

    JSON has neither infinity nor NaN: None stands for both. Keys become strings.
    """
    if is_dataclass(result) and not isinstance(result, type):
        return {field.name: plain(getattr(result, field.name)) for field in fields(result)}
    if isinstance(result, Mapping):
        return {str(key): plain(value) for key, value in result.items()}
    if isinstance(result, np.ndarray | np.generic):
        return plain(result.tolist())
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    if isinstance(result, float) and not isfinite(result):
        return None
    return result
