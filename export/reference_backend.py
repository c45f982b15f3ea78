"""The PyTorch reference behind the runtime's backend contract: what every engine is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..copgen_ref.checkpoint import CheckpointFiles
from ..runtime.backends.host_loop import denoise_on_host
from ..runtime.components import contract
from ..runtime.solver import Plan
from .components import build_module


class ReferenceBackend:
    """A checkpoint's components in PyTorch on ``device``, ``cpu`` or ``cuda``; ``autocast`` runs them in bfloat16, as
    the authors' code does."""

    precision = "fp32"
    reason = "asked for"

    def __init__(self, files: CheckpointFiles, *, autocast: bool = False, device: str = "cpu") -> None:
        self._files = files
        self._autocast = autocast
        self._device = device
        self._modules: dict[str, nn.Module] = {}
        self.name = "pytorch-bf16-autocast" if autocast else "pytorch"

    def check(self, component: str) -> None:
        """Nothing: a module is built from whatever the checkpoint has, or :meth:`load` says what it lacks."""

    def load(self, component: str) -> None:
        """Build the component where it is not built yet."""
        if component not in self._modules:
            self._modules[component] = build_module(self._files, component).to(self._device)

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name."""
        self.load(component)
        edges = contract(component)
        arrays = [np.ascontiguousarray(inputs[spec.name]) for spec in edges.inputs]
        tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
        context = torch.autocast(self._device, dtype=torch.bfloat16) if self._autocast else nullcontext()
        with torch.inference_mode(), context:
            found = self._modules[component](*tensors)
        return {edges.outputs[0].name: found.float().cpu().numpy()}

    def denoise(
        self,
        plan: Plan,
        latents: NDArray[np.float32],
        times: NDArray[np.float32],
        moving: NDArray[np.bool_],
        report: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """The NumPy loop around :meth:`run`."""
        return denoise_on_host(self, plan, latents, times, moving, report)

    def release(self, component: str) -> None:
        """Drop the component."""
        self._modules.pop(component, None)

    def describe(self) -> dict[str, Any]:
        """What runs."""
        return {
            "backend": self.name,
            "provider": "PyTorch",
            "device": "CPU" if self._device == "cpu" else torch.cuda.get_device_name(),
            "precision": self.precision,
            "reason": self.reason,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
