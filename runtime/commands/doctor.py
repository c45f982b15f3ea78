"""``copgen-edge doctor``: what this machine can run, and what to install."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import click
import numpy as np

from ..backends.cuda_probe import gpus
from ..backends.onnxruntime import cuda_obstacle
from ..device import open_device
from ..engines.flavours import find_flavour
from ..errors import BackendError, CopgenError, DeviceError
from ..memory import available_bytes, total_bytes
from .common import emit, json_option

_EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "safetensors", "huggingface_hub")


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what this machine can run, and what to install for the rest. Exit code 1 where nothing can run."""
    found = _examine()
    if as_json:
        emit(found)
    else:
        _print(found)
    if not found["can_generate"]:
        raise CopgenError("no inference engine is installed, so nothing can be generated here; see above")


def _examine() -> dict[str, Any]:
    both = all(_version(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    try:
        obstacle = cuda_obstacle()
        engine = _version("onnxruntime-gpu") or _version("onnxruntime") or "unknown version"
    except BackendError as error:
        obstacle, engine = str(error), None
    missing = [name for name in _EXPORT_PACKAGES if find_spec(name) is None]
    advice = []
    if engine is None:
        advice.append(obstacle or "")
    if both:
        advice.append("onnxruntime and onnxruntime-gpu share a folder: uninstall both, then install the one you want")
    if gpus() and obstacle is not None and engine is not None:
        advice.append(
            f"the GPU is not used: {obstacle}; run pip install 'copgen-edge[gpu]' in place of 'copgen-edge[cpu]'"
        )
    if missing:
        advice.append(f"to export bundles here, run pip install 'copgen-edge[export]' (missing: {', '.join(missing)})")
    return {
        "copgen_edge": version("copgen-edge"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "memory_bytes": total_bytes(),
        "memory_available_bytes": available_bytes(),
        "gpus": [
            {"name": gpu.name, "compute_capability": gpu.compute_capability, "memory_bytes": gpu.memory}
            for gpu in gpus()
        ],
        "onnxruntime": engine,
        "backends": {
            "onnxruntime-cpu": "ready" if engine else "not installed",
            "onnxruntime-cuda": "ready" if engine and obstacle is None else obstacle,
            "tensorrt": _tensorrt(),
        },
        "can_generate": engine is not None,
        "can_export": not missing,
        "advice": advice,
    }


def _tensorrt() -> str:
    try:
        flavour = find_flavour()
    except BackendError as error:
        return str(error)
    builds = f"{flavour.name} {flavour.version} is installed"
    try:
        open_device().close()
    except (BackendError, DeviceError) as error:
        return f"{builds}, but no engine can run here: {error}"
    return f"{builds}; 'copgen-edge build BUNDLE' makes its engines"


def _print(found: dict[str, Any]) -> None:
    gigabytes = 1e9
    click.echo(f"copgen-edge {found['copgen_edge']}, Python {found['python']} on {found['platform']}")
    memory = found["memory_bytes"]
    room = (
        f", {memory / gigabytes:.1f} GB of memory, {found['memory_available_bytes'] / gigabytes:.1f} free"
        if memory
        else ""
    )
    click.echo(f"{found['cores']} cores{room}")
    for gpu in found["gpus"]:
        size = f"{gpu['memory_bytes'] / gigabytes:.1f} GB"
        click.echo(f"GPU {gpu['name']}, compute capability {gpu['compute_capability']}, {size}")
    for name, state in found["backends"].items():
        click.echo(f"{name}: {state}")
    click.echo(f"export: {'ready' if found['can_export'] else 'not installed'}")
    for line in found["advice"]:
        click.echo(f"-> {line}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
