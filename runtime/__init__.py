"""The torch-free runtime of copgen-edge: :class:`Pipeline` on a bundle, and what it stands on."""

from .errors import CopgenError
from .pipeline import Pipeline

__all__ = ["CopgenError", "Pipeline"]
