"""The reference must export without shapes computed at run time, which engines could not fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from copgen_edge.copgen_ref.autoencoder import Autoencoder, AutoencoderConfig
from copgen_edge.copgen_ref.network import CopgenNetwork, NetworkConfig
from copgen_edge.copgen_ref.normalization import GroupNormFloat32
from torch import Tensor, nn

DYNAMIC = {"Shape", "Loop", "If", "Scan", "Size", "NonZero"}


class JointStep(nn.Module):
    def __init__(self, network: CopgenNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        return self.network.forward_joint(latents, timesteps)


class Reconstruct(nn.Module):
    """Encoder and decoder in one graph: an export takes seconds."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> Tensor:
        return self.autoencoder.decode(self.autoencoder.sample_latent(self.autoencoder.encode_moments(image)))


def network() -> nn.Module:
    return JointStep(CopgenNetwork(NetworkConfig(width=32, depth=2, heads=2)))


def autoencoder() -> nn.Module:
    config = AutoencoderConfig(2, ch=32, ch_mult=(1, 2), encoder_blocks=1, decoder_blocks=1, scale_factor=0.5)
    return Reconstruct(Autoencoder(config))


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, ...]]]] = {
    "dit_step": (network, {"latents": (26118,), "timesteps": (12,)}),
    "autoencoder": (autoencoder, {"image": (2, 8, 8)}),
}


@pytest.mark.parametrize("case", CASES)
def test_exports_with_constant_shapes_and_runs_at_another_batch(case: str, tmp_path: Path) -> None:
    build, inputs = CASES[case]
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        tuple(torch.randn(2, *shape) for shape in inputs.values()),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes={name: {0: batch} for name in inputs},
        input_names=list(inputs),
        opset_version=20,
        verbose=False,
    )
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & DYNAMIC
    assert "Cast" not in kinds
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    fed = {name: 10 * torch.randn(3, *shape) for name, shape in inputs.items()}
    found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in fed.items()})[0])
    expected = model(**fed)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 5e-5


def test_a_norm_over_many_elements_keeps_its_digits_in_onnx_runtime(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = GroupNormFloat32(1, 8, eps=1e-6).eval().requires_grad_(False)
    x = torch.randn(1, 8, 192, 192) + 0.2
    path = tmp_path / "norm.onnx"
    torch.onnx.export(norm, (x,), path, input_names=["x"], dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0]).double()
    expected = torch.nn.functional.group_norm(x.double(), 1, eps=1e-6)
    # One sum over all of them is 2e-6 off.
    assert (found - expected).norm() < 1e-6 * expected.norm()
