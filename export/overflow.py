"""Does anything that would be half pass the largest half? Looked at in float32, while the reference is computed.

A check of the fp16 file alone would not tell: on a CPU ONNX Runtime computes much of it in float32, and what overflows
on a GPU passes there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .half import ISLANDS
from .half_plan import HALF_MAX
from .onnx_file import ExportError
from .units import TOKENS, unit_of

_MOVES = frozenset(
    {"_to_copy", "_unsafe_view", "cat", "clone", "constant_pad_nd", "expand", "permute", "slice", "split"}
)
_MOVES |= frozenset(
    {"split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "upsample_nearest2d", "view"}
)
"""ATen operators whose values are those of their inputs."""

_NAMED = 3
"""Units that an error names."""


@dataclass
class HalfPeaks:
    """``largest``: of each unit, the largest absolute value of a tensor that is half in the fp16 export."""

    largest: dict[str, float] = field(default_factory=dict)

    def see(self, unit: str, values: Tensor) -> None:
        """Count ``values`` of ``unit``; only floats are looked at."""
        if values.is_floating_point() and values.numel():
            self.largest[unit] = max(self.largest.get(unit, 0.0), float(values.abs().max()))


@contextmanager
def half_peaks(module: nn.Module, float32_units: Collection[str] = ()) -> Iterator[HalfPeaks]:
    """While this is open, what the float32 ``module`` computes is counted as the fp16 export would have it.

    Not counted are the inside of normalisations and all of ``float32_units``. What stands between two units has the
    dtype that the one before hands on, and is counted as that unit's.
    """
    peaks = HalfPeaks()
    watch = _Watch(peaks, float32_units)
    owners = {unit_of(name) for name, _ in module.named_parameters()}
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if isinstance(part, ISLANDS):
                stack.callback(part.register_forward_pre_hook(watch.enter_island).remove)
                stack.callback(part.register_forward_hook(watch.leave_island).remove)
            elif unit_of(name) == name and name in owners:
                stack.callback(part.register_forward_pre_hook(watch.entering(name)).remove)
                stack.callback(part.register_forward_hook(watch.leaving(name)).remove)
        stack.enter_context(watch)
        yield peaks


def require_half_range(component: str, peaks: HalfPeaks, inputs: str) -> None:
    """Raise :class:`ExportError` naming the units of ``component`` in which a half overflows on ``inputs``."""
    over = {unit: value for unit, value in peaks.largest.items() if value > HALF_MAX}
    if over:
        worst = sorted(over, key=lambda unit: -over[unit])[:_NAMED]
        figures = ", ".join(f"{unit} reaches {over[unit]:.3g}" for unit in worst)
        if len(over) > _NAMED:
            figures += f" and {len(over) - _NAMED} more units pass it"
        raise ExportError(
            f"{component} overflows in fp16 on {inputs}: {figures}, but half ends at {HALF_MAX:.0f}; export fp32, "
            "record trajectories with 'copgen-edge calibrate record', run 'copgen-edge calibrate halves', and export "
            "with --half-plan"
        )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, peaks: HalfPeaks, float32_units: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._peaks = peaks
        self._float32 = float32_units
        self._unit: str | None = None
        self._islands = 0
        self._looking = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if (
            isinstance(found, Tensor)
            and not self._islands
            and not func.is_view
            and func.__name__.partition(".")[0] not in _MOVES
        ):
            self._see(found)
        return found

    def _see(self, values: Tensor) -> None:
        # Looking at a tensor computes, which comes here again.
        if self._looking or self._unit is None or self._unit in self._float32:
            return
        self._looking = True
        try:
            self._peaks.see(self._unit, values)
        finally:
            self._looking = False

    def entering(self, unit: str) -> Any:
        """A hook for the beginning of ``unit``, which casts what it gets."""

        def hook(part: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self._unit = unit
            for values in arguments:
                self._see(values)

        return hook

    def leaving(self, unit: str) -> Any:
        """A hook for the end of ``unit``: embedded patches go on to the sum of tokens."""

        def hook(part: nn.Module, arguments: Any, output: Any) -> None:
            if ".patch_embeds." in unit:
                self._unit = TOKENS

        return hook

    def enter_island(self, part: nn.Module, arguments: Any) -> None:
        """A hook for the beginning of a normalisation."""
        self._islands += 1

    def leave_island(self, part: nn.Module, arguments: Any, output: Tensor) -> None:
        """A hook for the end of a normalisation, which gives half again."""
        self._islands -= 1
        self._see(output)
