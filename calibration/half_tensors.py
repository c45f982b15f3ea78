"""Which tensors of a float32 graph are half in the fp16 export, and which unit makes and which units take them.

Told from the float32 graph alone, since a model that overflows has no fp16 graph to look at:

- Nodes that only move values (reshapes, joins, nearest-neighbour copies) are looked through.
- Islands stay float32: every LayerNormalization; the nodes from a group norm's statistics (InstanceNormalization, or
  ReduceMean where it is a sum of rows) to the addition of its bias; and what depends on the timesteps alone. What an
  island hands to the others is cast to half, so it counts; what it has inside does not.
- A node belongs to the unit whose parameters it reads. Where the exporter folded them to a nameless constant (the
  transposed weight of a linear layer, the scale of a group norm) it is the unit of the next named parameter downstream.
  A node without parameters, and a norm outside of all units, has the dtype of what it is fed and belongs to the unit
  of that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, shape_inference

from ..export.units import has_norms, unit_of
from ..runtime.errors import CalibrationError

_MOVES = (
    *("Concat", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
)
_STATISTICS = ("InstanceNormalization", "ReduceMean")
_TIMESTEPS = "timesteps"


@dataclass(frozen=True)
class HalfTensor:
    """A tensor that is half in the fp16 export.

    ``op`` made it, in ``module``, the closest module whose name the graph keeps. ``unit`` is the unit whose dtype it
    has, ``takers`` are the other units that cast it to their own; both are empty where there is none.
    """

    name: str
    op: str
    module: str
    unit: str
    takers: tuple[str, ...]


@dataclass(frozen=True)
class Norm:
    """A normalisation: statistics of the tensor ``name`` over its last ``axes`` axes, in ``module``."""

    name: str
    module: str
    axes: int


@dataclass(frozen=True)
class HalfTensors:
    """All that is measured of a graph; ``angles`` are the inputs of the timestep embedding's sines, ``elements`` how
    many numbers each tensor has in one row."""

    tensors: tuple[HalfTensor, ...]
    norms: tuple[Norm, ...]
    angles: tuple[str, ...]
    elements: Mapping[str, int]


def find_half_tensors(model: onnx.ModelProto) -> HalfTensors:
    """The tensors of the float32 graph of a component, in the order in which they are computed.

    Raises :class:`CalibrationError` where a shape is unknown.
    """
    return _Graph(model).half_tensors()


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
        self.nodes = list(graph.node)
        self.shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
        self.constants = {t.name for t in graph.initializer}
        self.floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                # The batch is a symbol: one row.
                self.shapes[value.name] = tuple(d.dim_value or 1 for d in kind.shape.dim)
            if kind.elem_type == TensorProto.FLOAT:
                self.floats.add(value.name)
        self.makers = {output: i for i, node in enumerate(self.nodes) for output in node.output if output}
        self.takers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in filter(None, node.input):
                self.takers.setdefault(name, []).append(i)
        self.inputs = {value.name for value in graph.input} - self.constants
        self.sources = self._sources()
        self.islands, self.inside = self._islands()
        self.modules = self._modules()
        self.units = self._units()

    def half_tensors(self) -> HalfTensors:
        tensors, norms, angles = [], [], []
        for i, node in enumerate(self.nodes):
            if node.op_type in ("LayerNormalization", *_STATISTICS) and node.input[0] not in self.inside:
                norms.append(Norm(node.input[0], self._place(i), self._norm_axes(node)))
            if node.op_type == "Sin" and i in self.islands:
                angles.append(node.input[0])
            name = node.output[0]
            if node.op_type in _MOVES or not self.sources[i] or name not in self.floats:
                continue
            takers = list(self._takers_of_values(name))
            if name in self.inside or (self._of_time(i) and all(self._of_time(taker) for taker in takers)):
                continue
            unit = self.units[i] or ""
            others = dict.fromkeys(self.units[taker] or "" for taker in takers)
            named = tuple(other for other in others if other not in ("", unit))
            tensors.append(HalfTensor(name, node.op_type, self._place(i), unit, named))
        measured = [*(t.name for t in tensors), *(n.name for n in norms), *angles]
        if unknown := [name for name in measured if name not in self.shapes]:
            raise CalibrationError(f"the shape of {unknown[0]!r} is unknown; export the bundle again")
        elements = {name: math.prod(self.shapes[name]) for name in measured}
        return HalfTensors(tuple(tensors), tuple(norms), tuple(angles), elements)

    def _sources(self) -> list[frozenset[str]]:
        """The inputs of the graph that each node depends on; none for arithmetic on constants."""
        of: dict[str, frozenset[str]] = {name: frozenset([name]) for name in self.inputs}
        found = []
        for node in self.nodes:
            sources = frozenset[str]().union(*(of.get(name, frozenset()) for name in node.input))
            of.update(dict.fromkeys(node.output, sources))
            found.append(sources)
        return found

    def _islands(self) -> tuple[set[int], set[str]]:
        """The nodes that compute in float32 in the fp16 export, and the tensors between the nodes of one group norm."""
        islands = set()
        inside: set[str] = set()
        for i, node in enumerate(self.nodes):
            if self._of_time(i) or node.op_type == "LayerNormalization":
                islands.add(i)
            elif node.op_type in _STATISTICS or not inside.isdisjoint(node.input):
                islands.add(i)
                if not self._ends_norm(node):
                    inside.update(node.output)
        return islands, inside

    def _of_time(self, i: int) -> bool:
        return self.sources[i] == {_TIMESTEPS}

    def _ends_norm(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` adds a group norm's bias, or applies its scale where a bias of zeros was folded away."""
        if not self._by_channel(node):
            return False
        following = (self.nodes[taker] for taker in self.takers.get(node.output[0], ()))
        return node.op_type == "Add" or not any(n.op_type == "Add" and self._by_channel(n) for n in following)

    def _by_channel(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` has an operand of one constant a channel."""
        return node.op_type in ("Add", "Mul") and any(self._is_weight(name) for name in node.input)

    def _is_weight(self, name: str) -> bool:
        constant = name not in self.inputs and (name not in self.makers or not self.sources[self.makers[name]])
        return constant and name in self.floats and math.prod(self.shapes.get(name, ())) > 1

    def _modules(self) -> list[str | None]:
        """The parameter, without its last name, that each node reads, where the graph still has its name."""
        found: list[str | None] = []
        for node in self.nodes:
            named = [n for n in node.input if "." in n and n in self.floats and n in self.constants]
            path = named[0] if named else None
            found.append(path if path is None or unit_of(path) == path else path.rpartition(".")[0])
        return found

    def _units(self) -> list[str | None]:
        units: list[str | None] = []
        for i, node in enumerate(self.nodes):
            module = self.modules[i]
            unit = unit_of(module) if module is not None else None
            if unit is None and i not in self.islands and node.op_type == "MatMul" and self._is_weight(node.input[1]):
                unit = self._next_unit(i)
            elif unit is None and node.op_type in _STATISTICS:
                # A norm outside of all units comes before a layer that has none.
                following = self._next_unit(i)
                unit = following if following is not None and has_norms(following) else None
            if unit is None:
                makers = [self.makers[name] for name in node.input if name in self.makers]
                unit = units[max(makers)] if makers else self._next_unit(i)
            units.append(unit)
        return units

    def _next_unit(self, start: int) -> str | None:
        """The unit of the first node downstream of ``start`` that reads a parameter of one."""
        waiting, seen = [start], {start}
        while waiting:
            i = heapq.heappop(waiting)
            module = self.modules[i]
            unit = unit_of(module) if module is not None else None
            if unit is not None:
                return unit
            for output in self.nodes[i].output:
                for taker in self.takers.get(output, ()):
                    if taker not in seen:
                        seen.add(taker)
                        heapq.heappush(waiting, taker)
        return None

    def _place(self, i: int) -> str:
        return self.modules[i] or self.units[i] or ""

    def _norm_axes(self, node: onnx.NodeProto) -> int:
        rank = len(self.shapes[node.input[0]])
        if node.op_type != "LayerNormalization":
            # (batch, groups, ...)
            return rank - 2
        axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), -1)
        return -axis if axis < 0 else rank - axis

    def _takers_of_values(self, name: str) -> Iterator[int]:
        """The nodes that compute with the values of ``name``, in order."""
        waiting = list(self.takers.get(name, ()))
        seen: set[int] = set()
        found: set[int] = set()
        while waiting:
            i = waiting.pop()
            if i in seen:
                continue
            seen.add(i)
            if self.nodes[i].op_type not in _MOVES:
                found.add(i)
                continue
            for output in self.nodes[i].output:
                waiting.extend(self.takers.get(output, ()))
        yield from sorted(found)
