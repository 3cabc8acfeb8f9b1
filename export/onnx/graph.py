"""The precision in which the nodes of an ONNX graph compute and its weights are stored."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from zoo.errors import ModelError, first_line

# Operators that multiply by a matrix, which takes most of the time. Those of the second set always compute in 8 bits.
_FLOAT_OPERATORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"}
_INT8_OPERATORS = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"} | {
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QAttention",
}
# Position of the bias among the inputs of integer operators that have one.
_BIAS = {"QLinearConv": 8, "QGemm": 6, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "QAttention": 2}
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}
_PRECISIONS = _FLOATS | {"INT8": "int8", "UINT8": "int8"}


class Graph:
    """A graph with look-ups for the node that makes a value and for the value's type.

    Attributes:
        nodes: nodes of the graph and of its subgraphs.
        initializers: names of the initializers.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        graphs = list(_graphs(proto.graph))
        self.nodes = [node for graph in graphs for node in graph.node]
        self.initializers = {tensor.name for graph in graphs for tensor in graph.initializer}
        self._constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._maker = {output: node for node in self.nodes for output in node.output if output}
        known = TensorProto.DataType.values()
        kinds = _types(proto) | {name: tensor.data_type for name, tensor in self._constants.items()}
        self._types = {name: TensorProto.DataType.Name(kind) for name, kind in kinds.items() if kind in known}

    def computing(self) -> list[dict[str, Any]]:
        """Return name, operator, precision, weight and number of weights for each node that multiplies by a matrix."""
        known = _FLOAT_OPERATORS | _INT8_OPERATORS
        return [self._described(node) for node in self.nodes if node.op_type in known]

    def weights(self) -> dict[str, dict[str, Any]]:
        """Return number, share of all, and bytes of the stored weights, by type."""
        no_weights, biases = self._quantization_parameters()
        found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name, tensor in self._constants.items():
            kind = _PRECISIONS.get(self._types.get(name, "")) or ("int32" if name in biases else None)
            if kind is not None and tensor.dims and name not in no_weights:
                width = {"int8": 1, "fp16": 2, "bf16": 2, "fp64": 8}.get(kind, 4)
                found[kind][0] += _size(tensor)
                found[kind][1] += _size(tensor) * width
        total = sum(count for count, _ in found.values())
        return {
            kind: {"count": count, "share": count / total if total else 0.0, "bytes": size}
            for kind, (count, size) in sorted(found.items())
        }

    def antialiased(self) -> list[str]:
        """Return the names of nodes that resize with antialiasing, which few accelerators support."""
        return [
            node.name or next(iter(node.output), "")
            for node in self.nodes
            if node.op_type == "Resize" and any(entry.name == "antialias" and entry.i for entry in node.attribute)
        ]

    def _described(self, node: onnx.NodeProto) -> dict[str, Any]:
        factors = _factors(node)
        weight = next((name for name in map(self._stored, reversed(factors)) if name in self._constants), None)
        return {
            "name": node.name or (node.output[0] if node.output else ""),
            "operator": node.op_type,
            "precision": self._precision(node, factors),
            "weight": weight,
            "weights": 0 if weight is None else _size(self._constants[weight]),
        }

    def _precision(self, node: onnx.NodeProto, factors: list[str]) -> str:
        if node.op_type in _INT8_OPERATORS or all(self._dequantized(name) for name in factors):
            return "int8"
        known = [_FLOATS[self._types[name]] for name in factors if self._types.get(name) in _FLOATS]
        return known[0] if known else "unknown"

    def _dequantized(self, name: str) -> bool:
        """Return whether a value is the output of a DequantizeLinear of 8-bit integers."""
        node = self._maker.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        typed = node.input[2] if len(node.input) > 2 and node.input[2] else next(iter(node.input), "")
        return _PRECISIONS.get(self._types.get(typed, "UINT8")) == "int8"

    def _stored(self, name: str) -> str:
        """Return the constant that a value rearranges, casts or dequantises, else the value's own name."""
        passed: set[str] = set()  # a broken graph may have a cycle
        while name not in self._constants and name in self._maker and name not in passed:
            node = self._maker[name]
            rearranges = {"DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Identity"}
            if node.op_type not in rearranges or not node.input:
                break
            passed.add(name)
            name = node.input[0]
        return name

    def _quantization_parameters(self) -> tuple[set[str], set[str]]:
        """Return the names of scales and zero points, and the names of integer biases."""
        scales: set[str] = set()
        biases: set[str] = set()
        dynamic = {node.output[1] for node in self.nodes if node.op_type == "DynamicQuantizeLinear"}
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scales.update(node.input[1:])
                biases.update(name for name in node.input[:1] if self._types.get(name) == "INT32")
            elif node.op_type == "Mul" and dynamic & set(node.input):  # scale of the activations by that of the weights
                scales.update(node.input)
            elif node.op_type in _INT8_OPERATORS or node.op_type.startswith("QLinear"):
                bias = _BIAS.get(node.op_type)
                biases.update(name for place, name in enumerate(node.input) if place == bias)
                scales.update(set(node.input) - set(_factors(node)) - biases)
        return scales, biases


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read the graph of a file, without weights stored in other files.

    Raises:
        ModelError: the file is not ONNX.
    """
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's exceptions share no base class
        raise ModelError(
            f"{path} is not an ONNX file ({first_line(error)}). Give a file that ends in .onnx."
        ) from error
    if not proto.graph.node:
        raise ModelError(f"{path} is not an ONNX file, or one without nodes. Give a file that ends in .onnx.")
    return proto


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of the outer graph's values, as far as they can be inferred."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]  # a converter may have left stale ones
    with contextlib.suppress(Exception):  # custom operators may make inference fail
        bare = onnx.shape_inference.infer_shapes(bare)
    values = [*bare.graph.input, *bare.graph.value_info, *bare.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _factors(node: onnx.NodeProto) -> list[str]:
    """Return the names of the two inputs that are multiplied."""
    places = (0, 3) if node.op_type == "QGemm" or node.op_type.startswith("QLinear") else (0, 1)
    return [node.input[place] for place in places if place < len(node.input)]


def port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Return name, type and shape of an input or output; each dimension is a number, a name or "?"."""
    tensor = value.type.tensor_type
    sides = [entry.dim_value if entry.HasField("dim_value") else entry.dim_param or "?" for entry in tensor.shape.dim]
    kinds = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    name = kinds.get(tensor.elem_type, "undefined")
    return {
        "name": value.name,
        "type": {"float": "float32", "double": "float64"}.get(name, name),
        "shape": sides if tensor.HasField("shape") else None,
    }


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for side in tensor.dims:
        size *= side
    return size
