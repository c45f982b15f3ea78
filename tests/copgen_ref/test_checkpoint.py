from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import copgen_edge.copgen_ref
import pytest
import torch
from copgen_edge.copgen_ref.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_autoencoder,
    load_checkpoint,
    load_network,
)
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS
from copgen_edge.copgen_ref.network import VARIANTS, CopgenNetwork, NetworkConfig
from copgen_edge.runtime.errors import CheckpointError
from copgen_edge.runtime.modalities import BY_KEY, IMAGE_KEYS
from safetensors.torch import save_file
from torch import Tensor

NETWORK = "models/copgen/cop_gen_small/nnet_ema.pth"
DEM = f"models/vae/{AUTOENCODER_FOLDERS['DEM_DEM']}/model-50-ema.pth"
Copy = Callable[..., Path]


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def fails(load: Callable[[], object], path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def test_reads_the_dimensions_off_the_shapes(random_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(random_checkpoint)
    assert checkpoint.network.config == NetworkConfig(width=64, depth=4, heads=4)
    assert tuple(checkpoint.autoencoders) == IMAGE_KEYS
    for key, autoencoder in checkpoint.autoencoders.items():
        config = autoencoder.config
        assert (config.channels, config.ch, config.ch_mult) == (BY_KEY[key].channels, 32, (1, 2, 1, 1))
        assert (config.encoder_blocks, config.decoder_blocks, config.latent_channels) == (2, 3, 8)
        assert config.scale_factor == BY_KEY[key].scale_factor
    assert checkpoint.missing == ()
    assert "width 64, depth 4, 4 heads" in checkpoint.describe()
    assert "10 of 10" in checkpoint.describe() and "cannot" not in checkpoint.describe()


def test_the_package_exports_it() -> None:
    assert copgen_edge.copgen_ref.load_checkpoint is load_checkpoint
    assert copgen_edge.copgen_ref.Checkpoint is Checkpoint
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = copgen_edge.copgen_ref.absent


def test_is_ready_for_inference(partial_checkpoint: Copy) -> None:
    checkpoint = load_checkpoint(partial_checkpoint("DEM_DEM"))
    for model in (checkpoint.network, checkpoint.autoencoders["DEM_DEM"]):
        assert not model.training
        for parameter in model.parameters():
            assert not parameter.requires_grad and parameter.dtype == torch.float32 and not parameter.is_meta


def test_other_dimensions(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint(config=False)
    config = NetworkConfig(width=48, depth=6, heads=3, patch_sizes=(1, *(4,) * 10, 1))
    torch.manual_seed(0)
    network = CopgenNetwork(config).eval()
    torch.save(network.state_dict(), folder / NETWORK)
    loaded = load_checkpoint(folder, num_heads=3).network
    assert loaded.config == config
    latents, timesteps = torch.randn(1, 26118), torch.rand(1, 12) * 1000
    assert torch.equal(loaded.forward_joint(latents, timesteps), network.forward_joint(latents, timesteps))


def test_training_checkpoint_half_precision_and_safetensors_load_the_same(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM")
    plain = load_checkpoint(folder)
    state = torch.load(folder / NETWORK, weights_only=True)
    # Unlinked, not overwritten: what is loaded is still mapped to the old file.
    (folder / NETWORK).unlink()
    torch.save({"step": 9, "ema": {f"ema_model.{k}": v for k, v in state.items()}}, folder / NETWORK)
    state = torch.load(folder / DEM, weights_only=True)
    (folder / DEM).unlink()
    save_file({k: v.bfloat16() for k, v in state.items()}, (folder / DEM).with_suffix(".safetensors"))
    other = load_checkpoint(folder)
    for key, value in plain.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[key], value)
    for key, value in plain.autoencoders["DEM_DEM"].state_dict().items():
        assert torch.equal(other.autoencoders["DEM_DEM"].state_dict()[key], value.bfloat16().float())


def test_heads_argument_before_config_before_table(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint()
    assert load_checkpoint(folder).network.config.heads == 4
    assert load_checkpoint(folder, num_heads=8).network.config.heads == 8
    (folder / "config.json").unlink()
    fails(lambda: load_checkpoint(folder), folder / NETWORK, "width 64 and depth 4", "num_heads", "config.json")
    fails(lambda: load_checkpoint(folder, num_heads=5), folder / NETWORK, "5 heads do not divide the width 64")


def test_heads_of_a_published_variant_are_known(partial_checkpoint: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = partial_checkpoint(config=False)
    with torch.device("meta"):
        state = CopgenNetwork(replace(VARIANTS["large"], heads=1)).state_dict()
    monkeypatch.setattr("copgen_edge.copgen_ref.checkpoint.read_state_dict", lambda path: state)
    assert load_network(find_checkpoint(folder)).config == VARIANTS["large"]
    (folder / "config.json").write_text('{"num_heads": 8}')
    assert load_network(find_checkpoint(folder)).config.heads == 8


def test_scale_factors_of_the_config_replace_the_published(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM", "S2L2A_B01_B09")
    (folder / "config.json").write_text(json.dumps({"num_heads": 4, "scale_factors": {"DEM_DEM": 0.25}}))
    files = find_checkpoint(folder)
    dem = load_autoencoder(files, "DEM_DEM")
    moments = torch.ones(1, 16, 1, 1)
    assert dem.sample_latent(moments).unique().item() == 0.25
    assert load_autoencoder(files, "S2L2A_B01_B09").config.scale_factor == BY_KEY["S2L2A_B01_B09"].scale_factor


def test_norm_groups_of_the_config_replace_the_published(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM")
    published = load_autoencoder(find_checkpoint(folder), "DEM_DEM")
    (folder / "config.json").write_text(json.dumps({"norm_groups": 4}))
    found = load_autoencoder(find_checkpoint(folder), "DEM_DEM")
    assert (published.config.groups, found.config.groups) == (32, 4)
    image = torch.linspace(-1, 1, 64 * 64).reshape(1, 1, 64, 64)
    assert not torch.allclose(found.encode_moments(image), published.encode_moments(image), atol=1e-3)
    (folder / "config.json").write_text(json.dumps({"norm_groups": 5}))
    fails(lambda: load_autoencoder(find_checkpoint(folder), "DEM_DEM"), folder, "multiple of its 5 groups")


def test_a_partial_set_says_what_it_lacks(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM", "S2L2A_B01_B09")
    checkpoint = load_checkpoint(folder)
    assert set(checkpoint.autoencoders) == {"DEM_DEM", "S2L2A_B01_B09"}
    assert checkpoint.missing == tuple(key for key in IMAGE_KEYS if key not in checkpoint.autoencoders)
    assert "LULC_LULC" in checkpoint.describe() and "2 of 10" in checkpoint.describe()
    absent = AUTOENCODER_FOLDERS["LULC_LULC"]
    fails(lambda: checkpoint.autoencoders["LULC_LULC"], folder, "LULC_LULC cannot be encoded or decoded", absent)
    fails(lambda: load_autoencoder(checkpoint.files, "LULC_LULC"), folder, absent)
    assert "LULC_LULC" not in checkpoint.autoencoders


def test_autoencoders_load_without_a_network(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM", network=False)
    assert load_autoencoder(find_checkpoint(folder), "DEM_DEM").config.channels == 1
    fails(lambda: load_checkpoint(folder), folder, "no network below it")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("mid_block.attn.proj.bias"), ["missing mid_block.attn.proj.bias"]),
        (lambda s: s.pop("pos_embed"), ["missing pos_embed"]),
        (lambda s: s.pop("patch_embeds.3.proj.weight"), ["missing patch_embeds.3.proj.weight"]),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), ["surplus extra.weight"]),
        (lambda s: s.update({f"extra.{i}": torch.zeros(1) for i in range(5)}), ["extra.2 and 2 more"]),
        (
            lambda s: s.update({"norm.weight": torch.zeros(63)}),
            ["norm.weight has shape (63,)", "expected (64,)"],
        ),
        (lambda s: s.update({"pos_embed": torch.zeros(834, 64)}), ["pos_embed has shape (834, 64)", "3 dimensions"]),
        (
            lambda s: s.update({"pos_embed": torch.zeros(1, 822, 64)}),
            ["pos_embed has shape (1, 822, 64)", "expected (1, 834, 64)"],
        ),
        (
            lambda s: s.update({"patch_embeds.1.proj.weight": torch.zeros(64, 8, 3, 3)}),
            ["patch size 3 of DEM_DEM"],
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("in_blocks.1.")],
            ["missing in_blocks.1.norm2.weight", "more"],
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith(("in_blocks.", "out_blocks."))],
            ["depth is 0"],
        ),
    ],
)
def test_a_network_that_does_not_fit_is_named(
    partial_checkpoint: Copy, change: Callable[[dict[str, Tensor]], object], parts: list[str]
) -> None:
    folder = partial_checkpoint()
    edit(folder / NETWORK, change)
    fails(lambda: load_checkpoint(folder), folder / NETWORK, *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("decoder.up.2.block.1.conv1.bias"), ["missing decoder.up.2.block.1.conv1.bias"]),
        (lambda s: s.pop("encoder.conv_in.weight"), ["missing encoder.conv_in.weight"]),
        (lambda s: s.pop("post_quant_conv.weight"), ["missing post_quant_conv.weight"]),
        (lambda s: s.update({"loss.logvar": torch.zeros(1)}), ["surplus loss.logvar"]),
        (lambda s: s.update({"quant_conv.weight": torch.zeros(16, 16)}), ["quant_conv.weight has shape (16, 16)"]),
        (
            lambda s: s.update({"encoder.down.1.block.0.conv1.weight": torch.zeros(48, 32, 3, 3)}),
            ["encoder.down.1.block.0.conv1.weight gives 48 channels", "multiple of 32"],
        ),
        (
            lambda s: s.update({"post_quant_conv.weight": torch.zeros(4, 4, 1, 1)}),
            ["4 latent channels", "DEM_DEM"],
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("encoder.down.3.")],
            ["3 levels", "DEM_DEM"],
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("encoder.down.")],
            ["0 levels", "DEM_DEM"],
        ),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_named(
    partial_checkpoint: Copy, change: Callable[[dict[str, Tensor]], object], parts: list[str]
) -> None:
    folder = partial_checkpoint("DEM_DEM")
    edit(folder / DEM, change)
    fails(lambda: load_checkpoint(folder), folder / DEM, *parts)


def test_another_modalitys_autoencoder_is_recognised(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM", "S1RTC_vh_vv")
    shutil.copy(folder / f"models/vae/{AUTOENCODER_FOLDERS['S1RTC_vh_vv']}/model-50-ema.pth", folder / DEM)
    fails(lambda: load_checkpoint(folder), folder / DEM, "takes 2 channels, expected 1 for DEM_DEM")


def test_a_truncated_component_is_named(partial_checkpoint: Copy) -> None:
    folder = partial_checkpoint("DEM_DEM")
    content = (folder / DEM).read_bytes()
    (folder / DEM).write_bytes(content[: len(content) // 2])
    fails(lambda: load_checkpoint(folder), folder / DEM, "truncated")
    assert load_network(find_checkpoint(folder)).config.width == 64
