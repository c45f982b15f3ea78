from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from copgen_edge.copgen_ref.state_dicts import read_state_dict
from copgen_edge.runtime.errors import CheckpointError
from safetensors.torch import save_file

WEIGHTS = {"norm.weight": torch.arange(5.0), "norm.bias": torch.ones(5)}
EMA = {f"ema_model.{key}": value for key, value in WEIGHTS.items()}
TRAINING = {
    "ema_model.loss.logvar": torch.zeros(1),
    "online_model.norm.weight": torch.zeros(5),
    "initted": torch.tensor([True]),
    "step": torch.tensor([50]),
}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def same(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(WEIGHTS) and all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"step": 50, "model": {}, "ema": {**EMA, **TRAINING}, "opt": {"lr": [1e-4]}},
        {**EMA, **TRAINING},
        {"step": 50, "ema": {**WEIGHTS, "loss.logvar": torch.zeros(1)}},
    ],
    ids=["plain", "nested", "flat", "nested without prefix"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_published_and_training_checkpoints_give_the_same_weights(tmp_path: Path, content: Any, zipped: bool) -> None:
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [WEIGHTS, {**EMA, "step": torch.tensor([50])}], ids=["plain", "flat"])
def test_safetensors(tmp_path: Path, content: dict[str, torch.Tensor]) -> None:
    save_file(content, tmp_path / "w.safetensors")
    assert same(read_state_dict(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({key: value.to(dtype) for key, value in WEIGHTS.items()}, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert same(state) and all(value.dtype == torch.float32 for value in state.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({}, "holds no weights"),
        ({"ema": {}}, "holds no weights"),
        ({**WEIGHTS, "epoch": 3}, "epoch is a int, expected a tensor"),
        ({"model": WEIGHTS}, "model is a dict, expected a tensor"),
        ({**WEIGHTS, "steps": torch.tensor([3])}, "steps is a torch.int64 tensor"),
        ({**WEIGHTS, "map": torch.eye(3).to_sparse()}, "map is a torch.float32 tensor .torch.sparse_coo"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    fails(tmp_path / "w.pth", message)


def fails(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"norm.weight": Payload()}, protocol=2))
    torch.save({"norm.weight": Payload()}, tmp_path / "zip.pth")
    fails(tmp_path / "raw.pth", "pickled code, which is never run")
    fails(tmp_path / "zip.pth", "pickled code, which is never run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 1, 3, 200, -1, -30])
def test_truncated_archive(tmp_path: Path, kept: int) -> None:
    torch.save(WEIGHTS, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "t.pth").write_bytes(content[:kept])
    fails(tmp_path / "t.pth", "truncated" if kept not in (0, 1) else "no PyTorch checkpoint|damaged")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all, but text", bytes(range(256)) * 9])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    fails(path, "no PyTorch checkpoint" if suffix == "pth" else "no complete safetensors file")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_damaged_byte_gives_weights_or_one_error(tmp_path: Path, zipped: bool) -> None:
    torch.save(WEIGHTS, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "w.pth").read_bytes()
    damaged = 0
    for position in range(0, len(content), 7):
        path = tmp_path / f"{position}.pth"
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            read_state_dict(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            damaged += 1
        path.unlink()
    assert damaged > 10


def test_truncated_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-1])
    fails(tmp_path / "w.safetensors", "no complete safetensors file")


def test_git_lfs_pointer_and_unreadable_path(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    fails(tmp_path / "w.pth", "Git LFS pointer")
    fails(tmp_path / "absent.pth", "cannot be read")
    (tmp_path / "folder.pth").mkdir()
    fails(tmp_path / "folder.pth", "cannot be read")
