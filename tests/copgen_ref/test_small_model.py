"""The checkpoint inside the package: found whole, missed by name, copied whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from copgen_edge.copgen_ref import small_model
from copgen_edge.copgen_ref.files import find_checkpoint
from copgen_edge.copgen_ref.small_model import copy_small_checkpoint, small_checkpoint
from copgen_edge.runtime.errors import CheckpointError, RequestError

Ship = Callable[[Path], None]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Puts a folder where the package has its own."""

    def put(folder: Path) -> None:
        monkeypatch.setattr(small_model, "_FOLDER", folder)

    return put


def test_it_lies_beside_the_module() -> None:
    assert Path(small_model.__file__).parent / "small" == small_model._FOLDER


def test_a_whole_checkpoint_is_found(ship: Ship, random_checkpoint: Path) -> None:
    ship(random_checkpoint)
    assert small_checkpoint() == random_checkpoint


def test_a_package_without_it_says_so(ship: Ship, tmp_path: Path) -> None:
    ship(tmp_path / "small")
    with pytest.raises(CheckpointError, match=r"built without its small model .* train-small"):
        small_checkpoint()
    with pytest.raises(CheckpointError, match="built without"):
        copy_small_checkpoint(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_lacks_is_named(ship: Ship, partial_checkpoint: Callable[..., Path]) -> None:
    ship(partial_checkpoint("DEM_DEM", "LULC_LULC", network=False, config=False))
    with pytest.raises(CheckpointError) as caught:
        small_checkpoint()
    message = str(caught.value)
    assert "lacks the network, S1RTC_vh_vv" in message and "config.json" in message and "\n" not in message
    assert "DEM_DEM" not in message


def test_a_copy_is_a_checkpoint(ship: Ship, random_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(random_checkpoint, tmp_path / "small")
    (tmp_path / "small" / "MODEL_CARD.md").write_text("a card")
    ship(tmp_path / "small")
    out = tmp_path / "deep" / "copy"
    copy_small_checkpoint(out)
    assert (out / "MODEL_CARD.md").read_text() == "a card"
    found, source = find_checkpoint(out), find_checkpoint(random_checkpoint)
    assert found.missing == () and found.num_heads == source.num_heads and found.weights == source.weights
    assert found.network_file().read_bytes() == source.network_file().read_bytes()


def test_a_folder_that_holds_something_is_kept(ship: Ship, random_checkpoint: Path, tmp_path: Path) -> None:
    ship(random_checkpoint)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something already"):
        copy_small_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
