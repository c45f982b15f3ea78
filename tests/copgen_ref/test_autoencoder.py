from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from copgen_edge.copgen_ref.autoencoder import Autoencoder, AutoencoderConfig
from copgen_edge.copgen_ref.checkpoint import Checkpoint
from copgen_edge.copgen_ref.normalization import GroupNormFloat32, LayerNormFloat32
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS
from torch import Tensor, nn

SMALL = AutoencoderConfig(channels=2, ch=32, ch_mult=(1, 2, 1, 1), scale_factor=0.5)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SMALL).eval().requires_grad_(False)


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_golden_moments_and_images(golden: Path, golden_checkpoint: Checkpoint, key: str) -> None:
    with np.load(golden / "autoencoders.npz") as arrays:
        image, moments, latent, decoded = (
            torch.from_numpy(arrays[f"{name}/{key}"]) for name in ("image", "moments", "latent", "decoded")
        )
    autoencoder = golden_checkpoint.autoencoders[key]
    found = autoencoder.encode_moments(image)
    assert found.shape == moments.shape
    assert relative_error(found, moments) < 1e-5
    found = autoencoder.decode(latent)
    assert found.shape == decoded.shape
    assert relative_error(found, decoded) < 1e-5


def test_published_size() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(AutoencoderConfig(channels=4))
    encoder, decoder = (
        sum(p.numel() for p in part.parameters()) / 1e6 for part in (autoencoder.encoder, autoencoder.decoder)
    )
    assert encoder == pytest.approx(34.2, abs=0.05)
    assert decoder == pytest.approx(49.5, abs=0.05)


def test_logvar_is_clamped_on_both_sides(autoencoder: Autoencoder) -> None:
    moments = torch.zeros(1, 16, 1, 2)
    moments[:, :8] = 3.0
    moments[:, 8:, :, 0] = 50.0
    moments[:, 8:, :, 1] = -500.0
    latent = autoencoder.sample_latent(moments, torch.full((1, 8, 1, 2), 2.0))
    assert torch.allclose(latent[..., 0], torch.full((1, 8, 1), 0.5 * (3 + 2 * np.exp(10.0))))
    # exp(-15) * 2 is lost in 3.0, exp(-250) would be too: the noise is made huge to see the clamp.
    tiny = autoencoder.sample_latent(moments, torch.full((1, 8, 1, 2), 1e6)) - 1.5
    assert torch.allclose(tiny[..., 1], torch.full((1, 8, 1), 0.5e6 * np.exp(-15.0)), rtol=1e-4)


def test_no_noise_gives_the_scaled_mean(autoencoder: Autoencoder) -> None:
    moments = torch.randn(2, 16, 3, 3)
    assert torch.equal(autoencoder.sample_latent(moments), 0.5 * moments[:, :8])


def test_decode_undoes_the_scale(autoencoder: Autoencoder) -> None:
    unscaled = Autoencoder(AutoencoderConfig(channels=2, ch=32, ch_mult=(1, 2, 1, 1))).eval().requires_grad_(False)
    unscaled.load_state_dict(autoencoder.state_dict())
    latent = torch.randn(1, 8, 4, 4)
    assert torch.equal(autoencoder.decode(0.5 * latent), unscaled.decode(latent))


def test_half_precision_weights_give_float32_images_close_by(autoencoder: Autoencoder) -> None:
    latent = torch.randn(2, 8, 4, 4)
    image = torch.randn(2, 2, 32, 32)
    expected = autoencoder.decode(latent), autoencoder.encode_moments(image)
    autoencoder.half()
    for found, value in zip((autoencoder.decode(latent), autoencoder.encode_moments(image)), expected, strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, value) < 2e-2


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("groups", "size"), [(32, (5, 7)), (2, (89, 64))], ids=["one sum", "by rows"])
def test_group_norm_is_torchs(dtype: torch.dtype, training: bool, groups: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    norm = GroupNormFloat32(groups, 96, eps=1e-6).train(training)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.requires_grad_(False)
    x = (torch.randn(3, 96, *size) * 4 + 9).to(dtype)
    expected = F.group_norm(x.float(), groups, norm.weight, norm.bias, 1e-6)
    found = norm(x)
    assert found.dtype == dtype
    assert relative_error(found.float(), expected) < (1e-6 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize(
    ("norm", "shape"), [(GroupNormFloat32(32, 64), (2, 64, 4, 4)), (LayerNormFloat32(16), (2, 3, 16))]
)
def test_the_exported_statistics_of_half_values_are_float32(norm: nn.Module, shape: tuple[int, ...]) -> None:
    """Seen in the graph: on a CPU the kernels of half precision accumulate in float32 anyway."""
    program = torch.export.export(norm.half().eval(), (torch.randn(shape).half(),))
    statistics = [n for n in program.graph.nodes if n.op == "call_function" and "norm" in str(n.target)]
    assert statistics
    for node in statistics:
        assert {source.meta["val"].dtype for source in node.all_input_nodes} == {torch.float32}
    assert program.graph.output_node().args[0][0].meta["val"].dtype == torch.float16


def test_a_width_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(RequestError, match="48 wide, expected a multiple of its 32 groups"):
        AutoencoderConfig(channels=1, ch=48)
    with pytest.raises(RequestError, match="multiple of its 5 groups"):
        AutoencoderConfig(channels=1, ch=48, groups=5)


def test_the_groups_reach_every_normalisation() -> None:
    config = AutoencoderConfig(channels=1, ch=32, ch_mult=(1, 2), groups=4)
    norms = [module for module in Autoencoder(config).modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) > 20 and {norm.num_groups for norm in norms} == {4}
