from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from copgen_edge.copgen_ref.fetch import AUTOENCODER_REPOSITORY, NETWORK_REPOSITORY, fetch_weights
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS, find_checkpoint
from copgen_edge.runtime.errors import CheckpointError
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

FILES = {
    NETWORK_REPOSITORY: {"500000_nnet_ema.pth": b"network", "README.md": b"card"},
    AUTOENCODER_REPOSITORY: {f"{name}/model-50-ema.pth": name.encode() for name in AUTOENCODER_FOLDERS.values()},
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub:
    """A hub of the two repositories; ``snapshot_download`` writes what it lists, but for ``damaged``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.damaged: dict[str, bytes | None] = {}
        self.failure: BaseException | None = None

    def model_info(self, repository: str, *, revision: str | None, files_metadata: bool) -> Any:
        self.asked.append((repository, revision))
        siblings = [
            SimpleNamespace(
                rfilename=name,
                lfs=SimpleNamespace(sha256=sha256(content)) if files_metadata and name.endswith(".pth") else None,
            )
            for name, content in FILES[repository].items()
        ]
        return SimpleNamespace(sha=f"commit-of-{revision}", siblings=siblings)

    def snapshot_download(self, repository: str, *, revision: str, local_dir: Path) -> str:
        self.asked.append((repository, revision))
        if self.failure is not None:
            raise self.failure
        for name, listed in FILES[repository].items():
            content = self.damaged.get(name, listed)
            if content is not None:
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_bytes(content)
        return str(local_dir)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_fetches_both_repositories_into_the_published_layout(hub: Hub, tmp_path: Path) -> None:
    fetched = fetch_weights(tmp_path, revision_network="v1")
    assert hub.asked == [
        (NETWORK_REPOSITORY, "v1"),
        (NETWORK_REPOSITORY, "commit-of-v1"),
        (AUTOENCODER_REPOSITORY, None),
        (AUTOENCODER_REPOSITORY, "commit-of-None"),
    ]
    files = find_checkpoint(tmp_path)
    assert files.network == tmp_path / "models/copgen/cop_gen_base/500000_nnet_ema.pth"
    assert files.missing == ()
    record = json.loads((tmp_path / "weights.json").read_text())
    assert [entry["repository"] for entry in record] == [NETWORK_REPOSITORY, AUTOENCODER_REPOSITORY]
    assert [entry["revision"] for entry in record] == ["commit-of-v1", "commit-of-None"]
    for entry, repository in zip(record, fetched, strict=True):
        assert entry["files"] == repository.files
        assert set(entry["files"]) == set(FILES[repository.repository])
        for name, digest in entry["files"].items():
            assert digest == sha256((tmp_path / entry["folder"] / name).read_bytes())


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("[Errno -2] Name or service not known\nsecond line"),
        HfHubHTTPError.__bases__[0]("[Errno 111] Connection refused"),
        RuntimeError("the download ended early"),
        OSError(28, "No space left on device"),
    ],
)
def test_without_network_it_gives_the_two_commands(hub: Hub, tmp_path: Path, failure: BaseException) -> None:
    hub.failure = failure
    target = tmp_path / "my weights"
    with pytest.raises(CheckpointError) as caught:
        fetch_weights(target, revision_autoencoders="abc123")
    message = str(caught.value)
    assert "\n" not in message
    assert str(failure).splitlines()[0] in message
    assert f"hf download mespinosami/copgen-base --local-dir '{target}/models/copgen/cop_gen_base'" in message
    assert f"hf download mespinosami/copgen-vaes --revision abc123 --local-dir '{target}/models/vae'" in message
    assert not (target / "weights.json").exists()


def test_a_machine_that_is_really_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing replaced: the hub's own library, with an endpoint where nobody listens."""
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))
    (tmp_path / "models/copgen/cop_gen_base").mkdir(parents=True)
    (tmp_path / "models/copgen/cop_gen_base/README.md").write_text("an earlier call's")
    with pytest.raises(CheckpointError, match=r"cannot be downloaded .*hf download mespinosami/copgen-base"):
        fetch_weights(tmp_path)


def test_an_unknown_revision_is_no_network_failure(hub: Hub, tmp_path: Path) -> None:
    hub.failure = RevisionNotFoundError.__new__(RevisionNotFoundError)
    with pytest.raises(CheckpointError, match="has no revision 'v9'") as caught:
        fetch_weights(tmp_path, revision_network="v9")
    assert "hf download" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"netw", "expected the hub's .*; delete it"), (None, "was not downloaded")]
)
def test_a_file_that_is_not_the_hubs_is_refused(hub: Hub, tmp_path: Path, content: bytes | None, message: str) -> None:
    hub.damaged = {"500000_nnet_ema.pth": content}
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch_weights(tmp_path)
    assert "500000_nnet_ema.pth" in str(caught.value)
    assert not (tmp_path / "weights.json").exists()


def test_without_the_hubs_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        fetch_weights(tmp_path)
