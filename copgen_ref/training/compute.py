"""Where training runs and in what arithmetic, and the learning rate of a step."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from ...runtime.errors import RequestError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Compute:
    """A device, and whether products are taken in bfloat16."""

    device: torch.device
    bfloat16: bool

    @classmethod
    def choose(cls, device: str = "auto") -> Compute:
        """``auto`` takes an NVIDIA GPU where there is one. Raises :class:`RequestError` where there is none for
        ``cuda``."""
        if device not in DEVICES:
            raise RequestError(f"found device {device!r}, expected one of {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise RequestError(
                "no CUDA device can be used by this PyTorch; take --device cpu, or install its CUDA build"
            )
        if device != "cpu" and torch.cuda.is_available():
            return cls(torch.device("cuda"), torch.cuda.is_bf16_supported())
        # Where the CPU has no instruction for it, bfloat16 is slower than float32.
        return cls(torch.device("cpu"), torch.cpu._is_avx512_bf16_supported())

    def autocast(self) -> AbstractContextManager[object]:
        """Products in bfloat16 within, if so chosen."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def for_kind(self, kind: str) -> Compute:
        """The same for modalities of ``kind``: elevation in float32, since bfloat16 rounds its relief away, which is a
        hundredth of the height that it stands on."""
        return replace(self, bfloat16=self.bfloat16 and kind != "elevation")

    def describe(self) -> str:
        """In words."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {'bfloat16 products' if self.bfloat16 else 'float32'}"


def learning_rate(step: int, steps: int, peak: float, warm_up: int, final: float) -> float:
    """The rate at ``step`` (from 0): linear over ``warm_up`` steps, then a cosine to ``final`` * ``peak``."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
