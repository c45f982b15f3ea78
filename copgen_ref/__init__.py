"""The PyTorch reference of COP-GEN: network, autoencoders, and the checkpoints the authors publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]


def __getattr__(name: str) -> Any:
    # Late, so that finding and fetching weights works where torch is not installed.
    if name in __all__:
        from . import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
