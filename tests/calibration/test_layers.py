"""Layers of exported graphs are found with their modules' names."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from copgen_edge.calibration.layers import find_layers, group_of, groups
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError
from onnx import numpy_helper


def graph(bundle: Path, component: str) -> onnx.ModelProto:
    return onnx.load(Bundle.open(bundle).onnx_path(component, "fp32"))


def test_the_networks_products_have_the_weights_of_their_modules(bundle: Path, checkpoint: Path) -> None:
    import torch

    model = graph(bundle, STEP)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    (path,) = checkpoint.rglob("*nnet_ema.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    layers = find_layers(STEP, model)
    # Every matrix of the checkpoint but the positions, each once.
    expected = {name.removesuffix(".weight") for name, value in state.items() if value.ndim >= 2} - {"pos_embed"}
    assert sorted(layer.path for layer in layers) == sorted(expected)
    for layer in layers:
        weight = state[f"{layer.path}.weight"].numpy()
        found = numpy_helper.to_array(stored[layer.weight])
        assert (found == (weight.T if layer.op == "MatMul" else weight)).all(), layer.path
        assert layer.shape == found.shape and layer.size == weight.size
        assert layer.shape[layer.axis] == len(weight)


def test_convolutions_of_an_autoencoder_have_their_names(bundle: Path) -> None:
    layers = find_layers("decoder_S2L2A_B01_B09", graph(bundle, "decoder_S2L2A_B01_B09"))
    assert {layer.op for layer in layers} == {"Conv"}
    assert {"decoder.conv_in", "decoder.conv_out", "decoder.mid.attn_1.q"} <= {layer.path for layer in layers}


def test_layers_are_measured_by_block(bundle: Path) -> None:
    found = groups(find_layers(STEP, graph(bundle, STEP)))
    assert [layer.path for layer in found["mid_block.mlp"]] == ["mid_block.mlp.fc1", "mid_block.mlp.fc2"]
    assert len(found["heads"]) == len(found["patch_embeds"]) == 12
    assert "out_blocks.0.skip_linear" in found
    assert group_of("decoder.up.3.block.0.conv1") == "decoder.up.3.block.0"
    assert group_of("decoder.conv_in") == "decoder.conv_in"


def test_a_graph_with_other_products_is_refused(bundle: Path) -> None:
    model = graph(bundle, STEP)
    product = next(node for node in model.graph.node if node.op_type == "MatMul" and node.input[1].startswith("val_"))
    model.graph.node.remove(product)
    with pytest.raises(CalibrationError, match="not those of a network of any depth"):
        find_layers(STEP, model)
