"""Writing a quantised variant of a component: each layer in a form of its own, in one ONNX file.

ONNX Runtime's own tools make the forms that are fast on a CPU and are no standard ONNX; :mod:`.qdq` makes the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from ..export.onnx_file import EXTERNAL_BYTES
from ..runtime.bundle import Bundle
from ..runtime.errors import CalibrationError
from .layers import Layer, find_layers
from .qdq import FORMS as QDQ_FORMS
from .qdq import RANGED, quantise_layers
from .ranges import Ranges

_BLOCKS = {"blocks8": (8, 128), "blocks4": (4, 32)}
_INT8_PRODUCTS = 4
"""MatMulNBits' accuracy level: activations are rounded to INT8, block by block."""


MIGRATED = "-migrated"
"""Ends the name of a form whose layers share what is hard between activation and weight (:func:`.ranges.migration`)."""


@dataclass(frozen=True)
class Target:
    """A precision of a bundle that is made by quantising ``base``: the ``forms`` that its engine runs, and whether they
    know convolutions."""

    base: str
    forms: tuple[str, ...]
    convolutions: bool = False


TARGETS: Mapping[str, Target] = {
    "int8": Target("fp32", ("dynamic", "dynamic-migrated", "u8s8", "u8s8-migrated", "blocks8")),
    "int8-qdq": Target("fp16", ("s8s8", "s8s8-migrated", "w8", "w8-migrated"), convolutions=True),
    "fp8-qdq": Target("fp16", ("fp8", "fp8-migrated")),
    "int4-weights-qdq": Target("fp16", ("w4", "w4-migrated", "w8", "w8-migrated")),
    "int8-weights": Target("fp32", ("blocks8",)),
    "int4-weights": Target("fp32", ("blocks4", "blocks8")),
}
"""What can be made: by the precision's name, those of :data:`~copgen_edge.runtime.bundle.QUANTISED`."""


def quantisable(bundle: Bundle, component: str, precision: str) -> list[Layer]:
    """The layers of the fp32 graph of ``component`` that ``precision`` has a form for, in the graph's order; that of
    the base has the same by path."""
    target = TARGETS[precision]
    model = onnx.load(bundle.onnx_path(component, "fp32"), load_external_data=False)
    return [layer for layer in find_layers(component, model) if layer.op == "MatMul" or target.convolutions]


def write_variant(
    base: Path, component: str, precision: str, forms: Mapping[str, str], ranges: Ranges, path: Path
) -> tuple[Path, ...]:
    """Write the graph of ``component`` for ``precision`` (a key of :data:`TARGETS`) to ``path``; the files, the graph
    first. ``base`` is its ONNX file in the target's base, ``forms`` has the form of each layer by its path; layers that
    are not in it stay as they are there.

    Raises :class:`CalibrationError` for a layer that the graph lacks or a form that the target does not run.
    """
    target = TARGETS[precision]
    model = onnx.load(base)
    layers = {layer.path: layer for layer in find_layers(component, model)}
    for name, form in forms.items():
        if name not in layers or (layers[name].op == "Conv" and not target.convolutions):
            raise CalibrationError(f"{component} has no layer {name!r} that {precision} could quantise; plan it again")
        if form not in target.forms:
            raise CalibrationError(
                f"{precision} does not run the form {form!r} of {name}, only {', '.join(target.forms)}; plan it again"
            )

    def nodes(form: str) -> list[str]:
        return [layers[name].node for name, found in forms.items() if found.removesuffix(MIGRATED) == form]

    own, limits = {}, {}
    for name, form in forms.items():
        kind, layer = form.removesuffix(MIGRATED), layers[name]
        if kind in QDQ_FORMS or form.endswith(MIGRATED):
            own[layer] = kind if kind in QDQ_FORMS else "float"
        if kind in RANGED or form.endswith(MIGRATED):
            limits[name] = ranges.limits(model, layer, migrated=form.endswith(MIGRATED))
    quantise_layers(model, own, limits)
    with _quiet():
        if nodes("dynamic"):
            model = _dynamic(model, nodes("dynamic"), path)
        for form, (bits, block) in _BLOCKS.items():
            if nodes(form):
                config = DefaultWeightOnlyQuantConfig(block, True, _INT8_PRODUCTS, bits=bits)
                # Its list of nodes to include adds to its choice of operators, and all of those are MatMuls.
                others = [layer.node for layer in layers.values() if layer.node not in nodes(form)]
                quantizer = MatMulNBitsQuantizer(model, algo_config=config, nodes_to_exclude=others)
                quantizer.process()
                model = quantizer.model.model
    return _save(model, path)


def _dynamic(model: onnx.ModelProto, nodes: list[str], path: Path) -> onnx.ModelProto:
    scratch = path.with_name(path.name + ".dynamic")
    data = path.with_name(path.name + ".dynamic.data")
    try:
        quantize_dynamic(
            model,
            scratch,
            nodes_to_quantize=nodes,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=model.ByteSize() > EXTERNAL_BYTES,
        )
        return onnx.load(scratch)
    finally:
        scratch.unlink(missing_ok=True)
        data.unlink(missing_ok=True)


def _save(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    if model.ByteSize() <= EXTERNAL_BYTES:
        onnx.save_model(model, path)
        return (path,)
    data = path.with_name(path.name + ".data")
    # onnx appends to a file that is there.
    data.unlink(missing_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)
    return (path, data)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantisers print on the root logger off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
