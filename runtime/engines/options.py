"""What one may ask of a build, and what a flavour of TensorRT cannot give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from .flavours import Flavour

MAX_BATCH = 256
HARDWARE_LEVELS = ("none", "ampere-plus", "same-compute-capability")
DEFAULT_BATCH = (1, 4, 8)


@dataclass(frozen=True)
class BuildOptions:
    """``batch``: least, usual and most rows of a call. ``workspace``: bytes a layer may use while it runs, or None for
    all there is. ``compute_capabilities``: such as ``8.9``; none means all that the builder knows. The rest is as
    TensorRT names it. Raises :class:`RequestError` for numbers that cannot be."""

    batch: tuple[int, int, int] = DEFAULT_BATCH
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2] <= MAX_BATCH:
            raise RequestError(
                f"found batch {','.join(str(size) for size in self.batch)}, expected MIN,OPT,MAX in rising order, "
                f"from 1 to {MAX_BATCH}"
            )
        if self.workspace is not None and self.workspace < 1:
            raise RequestError(f"found a workspace of {self.workspace} bytes, expected 1 or more")
        if self.hardware_compatibility not in HARDWARE_LEVELS:
            raise RequestError(
                f"found hardware compatibility {self.hardware_compatibility!r}, expected one of "
                f"{', '.join(HARDWARE_LEVELS)}"
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise RequestError(f"found optimization level {self.optimization_level}, expected 0 to 5")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BuildOptions:
        """The options of which ``dataclasses.asdict`` and JSON made ``content``.

        Raises :class:`KeyError` or :class:`TypeError` for what is no such content.
        """
        # JSON has no tuples.
        sequences = {name: tuple(content[name]) for name in ("batch", "compute_capabilities")}
        return cls(**{**content, **sequences})


def refuse_what_lacks(options: BuildOptions, flavour: Flavour) -> None:
    """Raise :class:`RequestError` with the reason where ``flavour`` cannot do what ``options`` ask."""
    if flavour.is_rtx:
        _refuse(
            options.version_compatible,
            "--version-compatible",
            "TensorRT for RTX has no lean runtime to put into an engine; build anew after an upgrade",
        )
        _refuse(
            options.hardware_compatibility != "none",
            "--hardware-compatibility",
            "engines of TensorRT for RTX run on every GPU it knows; name fewer with --compute-capability",
        )
        known = capabilities(flavour)
        if unknown := [one for one in options.compute_capabilities if one not in known]:
            raise RequestError(
                f"TensorRT for RTX {flavour.version} builds for compute capabilities {', '.join(known)}, not for "
                f"{', '.join(unknown)}"
            )
    else:
        _refuse(
            bool(options.compute_capabilities),
            "--compute-capability",
            "tensorrt builds for the GPU of the machine it runs on; build there, or take --flavour tensorrt-rtx",
        )


def capabilities(flavour: Flavour) -> Sequence[str]:
    """The compute capabilities that TensorRT for RTX can be asked to build for."""
    members = flavour.module.ComputeCapability.__members__
    numbers = [int(name[2:]) for name in members if name.startswith("SM") and name[2:].isdigit()]
    return [f"{number // 10}.{number % 10}" for number in sorted(numbers)]


def _refuse(asked: bool, option: str, reason: str) -> None:
    if asked:
        raise RequestError(f"{option} cannot be had: {reason}")
