"""The small model that ships inside the package: where it lies, and a copy of it. Loads no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..runtime.errors import CheckpointError
from ..runtime.folders import new_folder
from .files import CONFIG_NAME, find_checkpoint

_FOLDER = Path(__file__).with_name("small")
_REMEDY = (
    "install a release of copgen-edge, which has it, or train one with 'copgen-edge train-small' and give it to "
    "'copgen-edge export'"
)


def small_checkpoint() -> Path:
    """The folder of the shipped checkpoint, in the authors' layout.

    Raises :class:`CheckpointError` where the package was built without it, or without a part of it.
    """
    if not _FOLDER.is_dir():
        raise CheckpointError(f"this copgen-edge was built without its small model (no {_FOLDER}); {_REMEDY}")
    files = find_checkpoint(_FOLDER)
    lacking = [*(["the network"] if files.network is None else []), *files.missing]
    if not (_FOLDER / CONFIG_NAME).is_file():
        lacking.append(CONFIG_NAME)
    if lacking:
        raise CheckpointError(f"the small model in {_FOLDER} lacks {', '.join(lacking)}; {_REMEDY}")
    return _FOLDER


def copy_small_checkpoint(out: Path) -> None:
    """Copy the shipped checkpoint, its model card included, to the new folder ``out``, which appears whole.

    Raises :class:`CheckpointError` as :func:`small_checkpoint` does, and
    :class:`~copgen_edge.runtime.errors.RequestError` where ``out`` holds something already or cannot be written.
    """
    source = small_checkpoint()
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with new_folder(out, size) as work:
        shutil.copytree(source, work, dirs_exist_ok=True)
