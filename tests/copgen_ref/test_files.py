from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS, find_checkpoint
from copgen_edge.runtime.errors import CheckpointError
from copgen_edge.runtime.modalities import IMAGE_KEYS

DEM = AUTOENCODER_FOLDERS["DEM_DEM"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Empty files are enough here: nothing is read but config.json."""
    put(tmp_path / "models/copgen/cop_gen_base/500000_nnet_ema.pth")
    for folder in AUTOENCODER_FOLDERS.values():
        put(tmp_path / "models/vae" / folder / "model-50-ema.pth")
    return tmp_path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_finds_the_published_layout(root: Path) -> None:
    files = find_checkpoint(root)
    assert files.network == root / "models/copgen/cop_gen_base/500000_nnet_ema.pth"
    assert tuple(files.autoencoders) == IMAGE_KEYS
    for key, path in files.autoencoders.items():
        assert path.parent.name == AUTOENCODER_FOLDERS[key]
    assert files.missing == ()
    assert files.num_heads is None and files.norm_groups == 32 and not files.scale_factors


def test_finds_two_hub_repositories_side_by_side_and_safetensors(tmp_path: Path) -> None:
    network = put(tmp_path / "copgen-base/500000_nnet_ema.safetensors")
    dem = put(tmp_path / "copgen-vaes" / DEM / "model-50-ema.safetensors")
    files = find_checkpoint(tmp_path)
    assert (files.network, dict(files.autoencoders)) == (network, {"DEM_DEM": dem})
    assert files.missing == IMAGE_KEYS[1:]


def test_the_folder_of_one_autoencoder_is_enough(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "models/vae" / DEM)
    files = find_checkpoint(".")
    assert files.network is None
    assert tuple(files.autoencoders) == ("DEM_DEM",)
    with pytest.raises(CheckpointError, match="no network below it"):
        files.network_file()


def test_an_absent_autoencoder_says_where_it_was_looked_for(root: Path) -> None:
    (root / "models/vae" / DEM / "model-50-ema.pth").unlink()
    files = find_checkpoint(root)
    assert files.missing == ("DEM_DEM",)
    with pytest.raises(CheckpointError, match="DEM_DEM cannot be encoded or decoded") as caught:
        files.autoencoder_file("DEM_DEM")
    assert DEM in str(caught.value) and str(root) in str(caught.value)
    with pytest.raises(CheckpointError, match="'mean_timestamps' has no autoencoder"):
        files.autoencoder_file("mean_timestamps")


def test_averaged_weights_go_before_others(root: Path) -> None:
    put(root / "models/vae" / DEM / "model-50.pth")
    assert find_checkpoint(root).autoencoders["DEM_DEM"].name == "model-50-ema.pth"


@pytest.mark.parametrize(
    "second", [f"elsewhere/{DEM}/model-50-ema.pth", f"models/vae/{DEM}/model-60-ema.pth", "other/nnet_ema.safetensors"]
)
def test_two_candidates_are_an_error_that_names_both(root: Path, second: str) -> None:
    put(root / second)
    with pytest.raises(CheckpointError, match="2 files could be") as caught:
        find_checkpoint(root)
    assert second in str(caught.value)
    assert ("model-50-ema.pth" if "vae" in second or "else" in second else "500000_nnet_ema.pth") in str(caught.value)


def test_follows_links_once_and_skips_hidden_folders(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    linked = tmp_path_factory.mktemp("linked")
    (linked / "weights").symlink_to(root / "models", target_is_directory=True)
    put(linked / ".cache/huggingface/nnet_ema.pth")
    (linked / "loop").symlink_to(linked, target_is_directory=True)
    files = find_checkpoint(linked)
    assert files.network == linked / "weights/copgen/cop_gen_base/500000_nnet_ema.pth"
    assert len(files.autoencoders) == 10


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        find_checkpoint(tmp_path / "absent")
    put(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="no COP-GEN weights below it"):
        find_checkpoint(tmp_path)


def test_reads_the_config(root: Path) -> None:
    config = {"num_heads": 8, "norm_groups": 4, "scale_factors": {"DEM_DEM": 0.25}, "another": 1}
    (root / "config.json").write_text(json.dumps(config))
    files = find_checkpoint(root)
    assert files.num_heads == 8 and files.norm_groups == 4
    assert dict(files.scale_factors) == {"DEM_DEM": 0.25}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"num_heads": 4', "no readable JSON"),
        ("\udcff", "no readable JSON"),
        ("[4]", "holds a list"),
        ('{"num_heads": "4"}', "num_heads is '4'"),
        ('{"num_heads": true}', "num_heads is True"),
        ('{"num_heads": 0}', "num_heads is 0"),
        ('{"norm_groups": 2.5}', "norm_groups is 2.5"),
        ('{"norm_groups": -1}', "norm_groups is -1"),
        ('{"scale_factors": 0.5}', "scale_factors is 0.5"),
        ('{"scale_factors": {"DEM": 0.5}}', "names 'DEM'"),
        ('{"scale_factors": {"DEM_DEM": NaN}}', "DEM_DEM is nan"),
        ('{"scale_factors": {"DEM_DEM": 0}}', "DEM_DEM is 0"),
        ('{"scale_factors": {"DEM_DEM": "1"}}', "DEM_DEM is '1'"),
    ],
)
def test_a_damaged_config_is_named(root: Path, text: str, message: str) -> None:
    (root / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message) as caught:
        find_checkpoint(root)
    assert str(root / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["files", "fetch"])
def test_finding_and_fetching_load_no_torch(module: str) -> None:
    code = f"import sys, copgen_edge.copgen_ref.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
