"""The layers of an exported graph that hold nearly all of its weights: what can be quantised, by its module's name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from ..runtime.components import STEP
from ..runtime.errors import CalibrationError
from ..runtime.modalities import KEYS

_PREFIXES = ("network.", "autoencoder.")


@dataclass(frozen=True)
class Layer:
    """A MatMul or Conv of ``node`` with the constant ``weight``, of ``shape``; ``path`` is the PyTorch module's, such
    as ``in_blocks.3.mlp.fc1``; ``source`` is the activation that is multiplied."""

    path: str
    node: str
    op: str
    source: str
    weight: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def axis(self) -> int:
        """The axis of the weight that has one entry an output channel."""
        return 1 if self.op == "MatMul" else 0


def find_layers(component: str, model: onnx.ModelProto) -> list[Layer]:
    """The MatMuls and Convs of the graph of ``component`` with constant weights, in the graph's order; weights need not
    be loaded.

    A convolution's weight has its module's name. The weight of a product was transposed by the exporter and lost it:
    the network's products are known by their order and shapes. Raises :class:`CalibrationError` where a graph does not
    have them, or names a layer twice.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("MatMul", "Conv") and n.input[1] in shapes]
    products = [shapes[node.input[1]] for node in nodes if node.op_type == "MatMul"]
    names = iter(_products(products)) if component == STEP else iter(())
    found = [
        Layer(
            _module(node.input[1]) if node.op_type == "Conv" else next(names, node.name),
            node.name,
            node.op_type,
            node.input[0],
            node.input[1],
            shapes[node.input[1]],
        )
        for node in nodes
    ]
    if len({layer.path for layer in found}) != len(found):
        raise CalibrationError(f"{component}: two layers of its graph have one name; export the bundle again")
    return found


def group_of(path: str) -> str:
    """The group of layers that is measured as one: a block's attention, its MLP, its joining of the skip, all patch
    embeddings, all heads; of an autoencoder, each block."""
    parts = path.split(".")
    if parts[0] == "patch_embeds":
        return "patch_embeds"
    if parts[0] == "decoder_preds":
        return "heads"
    if parts[-1] == "skip_linear" or len(parts) <= 2:
        return path
    return ".".join(parts[:-1])


def groups(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers by :func:`group_of`, in the graph's order."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(group_of(layer.path), []).append(layer)
    return found


def _products(shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """The modules of a network's products with weights of ``shapes``, in their order: four a block, five where it joins
    a skip, and one head a modality."""
    half = (len(shapes) - len(KEYS) - 4) // 9
    expected = list(_expected(half, shapes[0][0])) if half >= 1 else []
    trunk = shapes[: len(shapes) - len(KEYS)]
    if [shape for _, shape in expected] != list(trunk):
        raise CalibrationError(
            f"{STEP}: its graph has {len(shapes)} products, which are not those of a network of any depth; export the "
            "bundle again with this version"
        )
    return [name for name, _ in expected] + [f"decoder_preds.{i}" for i in range(len(KEYS))]


def _expected(half: int, width: int) -> Iterator[tuple[str, tuple[int, int]]]:
    blocks = [f"in_blocks.{i}" for i in range(half)] + ["mid_block"] + [f"out_blocks.{i}" for i in range(half)]
    for block in blocks:
        if block.startswith("out"):
            yield f"{block}.skip_linear", (2 * width, width)
        yield f"{block}.attn.qkv", (width, 3 * width)
        yield f"{block}.attn.proj", (width, width)
        yield f"{block}.mlp.fc1", (width, 4 * width)
        yield f"{block}.mlp.fc2", (4 * width, width)


def _module(parameter: str) -> str:
    """``autoencoder.decoder.conv_in.weight`` -> ``decoder.conv_in``."""
    path = parameter.rsplit(".", 1)[0]
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    return path
