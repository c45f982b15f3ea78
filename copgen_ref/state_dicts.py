"""Reading a file of weights into a plain state dict of float32 tensors, or saying what is wrong with it."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..runtime.errors import CheckpointError

_EMA_PREFIX = "ema_model."
_LOSS_PREFIX = "loss."
_REMEDY = "fetch it again, or compare its SHA-256 with the original's"

# What torch.load raises on damaged files, beside what it documents: its unpickler trips over whatever bytes it meets.
_DAMAGED = (
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pth`` or ``.safetensors`` file, on the CPU, all float32.

    Of a raw training checkpoint, the averaged weights: the ``ema_model.`` items, under ``ema`` or at the top, without
    the prefix. Float32 tensors stay mapped to the file where its format allows. Raises :class:`CheckpointError` for a
    file that is damaged, that needs pickled code, or that holds anything but floating-point tensors.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a state dict; {_REMEDY}")
    state = _averaged_weights(loaded)
    if not state:
        raise CheckpointError(f"{path} holds no weights, expected a state dict; {_REMEDY}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {key} is a {type(value).__name__}, expected a tensor; give a plain state dict or a training "
                "checkpoint with 'ema'"
            )
        if not value.is_floating_point() or value.layout != torch.strided:
            raise CheckpointError(
                f"{path}: {key} is a {value.dtype} tensor ({value.layout}), expected dense floating-point numbers"
            )
    return {str(key): value.to(torch.float32) for key, value in state.items()}


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            head = stream.read(24)
        if head == b"version https://git-lfs.":
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from"
            )
        if path.suffix == ".safetensors":
            return load_file(path)
        zipped = zipfile.is_zipfile(path)
        if head.startswith(b"PK") and not zipped:
            raise CheckpointError(
                f"{path} is truncated: {path.stat().st_size} bytes without the archive's end; {_REMEDY}"
            )
        # Only the zip format can be mapped; torch's older format is read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); check path and permissions"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({_first_line(error)}); {_REMEDY}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no PyTorch checkpoint of plain tensors, or needs pickled code, which is never run; {_REMEDY}"
        ) from error
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path} is no PyTorch checkpoint, or damaged ({_first_line(error)}); {_REMEDY}"
        ) from error


def _averaged_weights(loaded: Mapping[Any, Any]) -> dict[Any, Any]:
    nested = loaded.get("ema")
    items = nested if isinstance(nested, Mapping) else loaded
    prefixed = {k: v for k, v in items.items() if isinstance(k, str) and k.startswith(_EMA_PREFIX)}
    if prefixed:
        items = {k.removeprefix(_EMA_PREFIX): v for k, v in prefixed.items()}
    elif items is loaded:
        return dict(loaded)
    # An autoencoder in training carries its loss's weights along.
    return {k: v for k, v in items.items() if not (isinstance(k, str) and k.startswith(_LOSS_PREFIX))}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
