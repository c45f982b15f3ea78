"""Downloading the published weights from the Hugging Face hub; loads no torch."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.bundle import sha256
from ..runtime.errors import CheckpointError

NETWORK_REPOSITORY = "mespinosami/copgen-base"
AUTOENCODER_REPOSITORY = "mespinosami/copgen-vaes"
PROVENANCE_NAME = "weights.json"

_FOLDERS = {NETWORK_REPOSITORY: "models/copgen/cop_gen_base", AUTOENCODER_REPOSITORY: "models/vae"}


@dataclass(frozen=True)
class FetchedRepository:
    """What was downloaded of one hub repository: the commit, and the SHA-256 of each file by its path in ``folder``.

    ``folder`` is relative to the folder that was fetched to.
    """

    repository: str
    revision: str
    folder: str
    files: dict[str, str]


def fetch_weights(
    out: str | Path, *, revision_network: str | None = None, revision_autoencoders: str | None = None
) -> tuple[FetchedRepository, ...]:
    """Download the authors' two hub repositories to ``out``, resuming what an earlier call left unfinished.

    A revision is a branch, a tag or a commit; None is the newest. Progress goes to standard error. What was fetched is
    returned and recorded in ``out/weights.json``. Raises :class:`CheckpointError` where the hub cannot be reached, a
    revision does not exist, or a file's hash is not the one the hub names.
    """
    root = Path(out)
    revisions = {NETWORK_REPOSITORY: revision_network, AUTOENCODER_REPOSITORY: revision_autoencoders}
    by_hand = " && ".join(_command(root, repository, revision) for repository, revision in revisions.items())
    fetched = tuple(_fetch(root, repository, revision, by_hand) for repository, revision in revisions.items())
    unfinished = root / f".{PROVENANCE_NAME}.{os.getpid()}"
    unfinished.write_text(json.dumps([asdict(f) for f in fetched], indent=1) + "\n", encoding="utf-8")
    unfinished.replace(root / PROVENANCE_NAME)
    return fetched


def _command(root: Path, repository: str, revision: str | None) -> str:
    pinned = f" --revision {shlex.quote(revision)}" if revision else ""
    return f"hf download {repository}{pinned} --local-dir {shlex.quote(str(root / _FOLDERS[repository]))}"


def _fetch(root: Path, repository: str, revision: str | None, by_hand: str) -> FetchedRepository:
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"huggingface_hub is not installed; run 'pip install huggingface_hub', or where it is run: {by_hand}"
        ) from error
    # The hub's library has changed its HTTP client twice; its own error's first base is that client's error.
    client_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    folder = root / _FOLDERS[repository]
    try:
        # Asked first, because snapshot_download, offline, takes whatever an earlier call left for the whole.
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
        huggingface_hub.snapshot_download(repository, revision=info.sha, local_dir=folder)
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repository} has no revision {revision!r}; give one of its branches, tags or commits"
        ) from error
    except (client_error, OSError, RuntimeError, ValueError, EntryNotFoundError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{repository} cannot be downloaded ({reason}); try again, or run on a machine with network, then copy "
            f"{root} here: {by_hand}"
        ) from error
    files = {sibling.rfilename: _verified(folder, sibling) for sibling in info.siblings or ()}
    return FetchedRepository(repository, str(info.sha), _FOLDERS[repository], files)


def _verified(folder: Path, sibling: Any) -> str:
    path = folder / sibling.rfilename
    if not path.is_file():
        raise CheckpointError(f"{path} was not downloaded though the hub lists it; fetch again")
    found, expected = sha256(path), sibling.lfs and sibling.lfs.sha256
    if expected and found != expected:
        raise CheckpointError(f"{path} has SHA-256 {found}, expected the hub's {expected}; delete it and fetch again")
    return found
