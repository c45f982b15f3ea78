"""Which TensorRT this machine has, and what each of them cannot do.

Three libraries share nearly one Python API: ``tensorrt`` 10.x and 11.x, and ``tensorrt_rtx`` (TensorRT for RTX).
"""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..errors import BackendError, one_line

FLAVOURS = ("tensorrt", "tensorrt-rtx")

# The wheel of the bindings imports by its own name; the metapackage that gives the short one is not always there.
_MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"}


@dataclass(frozen=True)
class Flavour:
    """A TensorRT library that loads here; ``version`` is its own."""

    name: str
    version: str
    module: Any

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, whose engines are not bound to the GPU that they were built on."""
        return self.name == "tensorrt-rtx"


def installed_flavours() -> list[Flavour]:
    """The flavours that load here, in the order of :data:`FLAVOURS`; :class:`BackendError` where there is none."""
    found = []
    for name in FLAVOURS:
        with suppress(BackendError):
            found.append(find_flavour(name))
    return found or [find_flavour()]


def find_flavour(name: str | None = None) -> Flavour:
    """The flavour ``name`` of :data:`FLAVOURS`, or the first that is installed.

    Raises :class:`BackendError` where there is none, saying what to install.
    """
    if name is not None and name not in FLAVOURS:
        raise BackendError(f"unknown flavour {name!r}; there are {', '.join(FLAVOURS)}")
    failures = []
    for wanted in FLAVOURS if name is None else (name,):
        for module_name in _MODULES[wanted]:
            try:
                module = import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name != module_name:
                    failures.append(f"{module_name} needs {error.name}")
                continue
            except ImportError as error:
                failures.append(f"{module_name}: {one_line(error)}")
                continue
            if hasattr(module, "Builder"):
                return Flavour(wanted, str(module.__version__), module)
            failures.append(f"{module_name} is a stub without a builder")
    found = f" ({'; '.join(failures)})" if failures else ""
    raise BackendError(f"no {name or 'TensorRT'} loads here{found}; {_remedy(name)}")


def _remedy(name: str | None) -> str:
    if name is None:
        return " or ".join(_remedy(flavour) for flavour in FLAVOURS)
    if name == "tensorrt" and platform.machine() == "aarch64":
        return "on a Jetson, tensorrt comes with JetPack: make the virtual environment with --system-site-packages"
    return f"run pip install {_PACKAGES[name]}"
