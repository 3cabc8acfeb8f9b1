"""What an ONNX file says of itself, and what its graph computes in: :func:`inspect`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ModelError, first_line

if TYPE_CHECKING:
    import onnx
    from rich.console import Console

SCHEMA = 1
_SHOWN_NODES = 5

# Metadata of to_onnx; those of the second row are JSON.
_TEXTS = ("architecture", "dim", "metric", "parameters", "precision", "loss", "source_digest")
_DOCUMENTS = ("preprocessing", "quantization", "data", "teacher", "versions")

# Operators that multiply by a matrix, which is where time goes. Those of the second row compute in 8 bits as such.
_FLOAT_OPERATORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"}
_INT8_OPERATORS = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"} | {
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QAttention",
}
# Which input of theirs is the bias, where there is one beside scales and zero points.
_BIAS = {"QLinearConv": 8, "QGemm": 6, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "QAttention": 2}
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}
_PRECISIONS = _FLOATS | {"INT8": "int8", "UINT8": "int8"}


def inspect(file: str | Path) -> dict[str, Any]:
    """Tell what an ONNX file takes, gives and holds, and which of its nodes compute in 8 bits.

    A Conv, Gemm or MatMul computes in int8 where both its inputs come from a DequantizeLinear of 8-bit integers, which
    is what onnxruntime fuses; the operators that are made for integers do so as such. Weights are counted as they are
    stored: all constants of one axis or more in floats or 8 bits, and integer biases, without scales and zero points.

    Args:
        file: an .onnx file; of one that ``export`` did not make, what can be known.

    Returns:
        See docs/formats.md.

    Raises:
        ModelError: the file is missing or not ONNX.
    """
    from zoo.files import digest

    path = Path(file)
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Check the path of the ONNX file.")
    proto = _read(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    graph = _Graph(proto)
    computing = [graph.computing(node) for node in graph.nodes if node.op_type in _FLOAT_OPERATORS | _INT8_OPERATORS]
    operators: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in computing:
        operators[entry["operator"]][entry["precision"]] += 1
    return {
        "schema": SCHEMA,
        "file": str(path),
        "bytes": path.stat().st_size,
        "digest": digest(path),
        "made_by_export": metadata.get("schema") == "1",
        "inputs": [_port(value) for value in proto.graph.input if value.name not in graph.initializers],
        "outputs": [_port(value) for value in proto.graph.output],
        **{key: metadata.get(key) for key in _TEXTS},
        **{key: _json(metadata.get(key)) for key in _DOCUMENTS},
        "other_metadata": {k: v for k, v in metadata.items() if k not in (*_TEXTS, *_DOCUMENTS, "schema")},
        "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "nodes": len(graph.nodes),
        "computing": computing,
        "operators": {operator: dict(counts) for operator, counts in sorted(operators.items())},
        "weights": graph.weights(),
    }


class _Graph:
    """A graph, prepared for questions: where a value comes from and what type it has.

    Attributes:
        nodes: of the graph and of the graphs inside it.
        initializers: names of its constants that are not nodes.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        from onnx import TensorProto

        graphs = list(_graphs(proto.graph))
        self.nodes = [node for graph in graphs for node in graph.node]
        self.initializers = {tensor.name for graph in graphs for tensor in graph.initializer}
        self._constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._maker = {output: node for node in self.nodes for output in node.output if output}
        self._types = {name: TensorProto.DataType.Name(kind) for name, kind in _types(proto).items()}
        self._types |= {name: TensorProto.DataType.Name(tensor.data_type) for name, tensor in self._constants.items()}

    def computing(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return name, operator, precision, weight and its size of a node that multiplies by a matrix."""
        factors = _factors(node)
        weight = next((name for name in map(self._stored, reversed(factors)) if name in self._constants), None)
        return {
            "name": node.name or (node.output[0] if node.output else ""),
            "operator": node.op_type,
            "precision": self._precision(node, factors),
            "weight": weight,
            "weights": 0 if weight is None else _size(self._constants[weight]),
        }

    def weights(self) -> dict[str, dict[str, Any]]:
        """Return for each type of stored weights their number, share of all, and bytes."""
        no_weights, biases = self._quantization_parameters()
        found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name, tensor in self._constants.items():
            kind = _PRECISIONS.get(self._types[name]) or ("int32" if name in biases else None)
            if kind is not None and tensor.dims and name not in no_weights:
                width = {"int8": 1, "fp16": 2, "bf16": 2, "fp64": 8}.get(kind, 4)
                found[kind][0] += _size(tensor)
                found[kind][1] += _size(tensor) * width
        total = sum(count for count, _ in found.values())
        return {
            kind: {"count": count, "share": count / total if total else 0.0, "bytes": size}
            for kind, (count, size) in sorted(found.items())
        }

    def _precision(self, node: onnx.NodeProto, factors: list[str]) -> str:
        if node.op_type in _INT8_OPERATORS or all(self._dequantized(name) for name in factors):
            return "int8"
        known = [_FLOATS[self._types[name]] for name in factors if self._types.get(name) in _FLOATS]
        return known[0] if known else "unknown"

    def _dequantized(self, name: str) -> bool:
        """Whether a value is a DequantizeLinear of 8-bit integers."""
        node = self._maker.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        typed = node.input[2] if len(node.input) > 2 and node.input[2] else node.input[0]
        return _PRECISIONS.get(self._types.get(typed, "UINT8")) == "int8"

    def _stored(self, name: str) -> str:
        """Return the constant that a value is a rearrangement or a dequantised form of, else the value's own name."""
        while name not in self._constants and name in self._maker:
            node = self._maker[name]
            if node.op_type not in {"DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Identity"}:
                break
            name = node.input[0]
        return name

    def _quantization_parameters(self) -> tuple[set[str], set[str]]:
        """Return the names of scales and zero points, and those of biases beside them."""
        scales: set[str] = set()
        biases: set[str] = set()
        dynamic = {node.output[1] for node in self.nodes if node.op_type == "DynamicQuantizeLinear"}
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scales.update(node.input[1:])
                if self._types.get(node.input[0]) == "INT32":
                    biases.add(node.input[0])
            elif node.op_type == "Mul" and dynamic & set(node.input):  # scale of the activations by that of the weights
                scales.update(node.input)
            elif node.op_type in _INT8_OPERATORS or node.op_type.startswith("QLinear"):
                bias = _BIAS.get(node.op_type)
                biases.update(name for place, name in enumerate(node.input) if place == bias)
                scales.update(set(node.input) - set(_factors(node)) - biases)
        return scales, biases


def print_inspection(content: dict[str, Any], nodes: bool = False, console: Console | None = None) -> None:
    """Print what :func:`inspect` found.

    Args:
        content: what it returned.
        nodes: name all nodes that compute in float, not only the first few.
        console: where to print; standard output if None, widened where that is a file or pipe, so that nothing is cut.
    """
    from rich.table import Table
    from rich.text import Text

    from export.report import wide_console

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, text in _lines(content, nodes):
        table.add_row(Text(key), Text(text))
    (console or wide_console()).print(table)


def _lines(content: dict[str, Any], nodes: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines to print: a key, and what is known of it."""
    from export.report import readable

    yield "file", content["file"]
    yield "bytes", f"{content['bytes']:,}"
    yield "digest", f"sha256:{content['digest']}"
    if not content["made_by_export"]:
        yield "made by", f"{content['producer'] or 'unknown'}; not by compressor export, so that less is known"
    for key in ("inputs", "outputs"):
        for port in content[key]:
            shape = " x ".join(map(str, port["shape"])) if port["shape"] is not None else "any shape"
            yield key[:-1], f"{port['name']}: {port['type']}, {shape}"
    if content["preprocessing"] is not None:
        yield "preprocessing", _preprocessing(content["preprocessing"])
    for key in ("architecture", "dim", "metric", "parameters", "precision"):
        if content[key] is not None:
            yield key, f"{int(content[key]):,}" if key == "parameters" and content[key].isdigit() else content[key]
    if content["quantization"] is not None:
        yield "quantization", readable(content["quantization"])
    yield "weights", _weights(content["weights"])
    total = Counter(entry["precision"] for entry in content["computing"])
    yield "computing", f"Conv, Gemm and MatMul: {_counts(total)}; {content['nodes']} nodes in all"
    for operator, counts in content["operators"].items():
        yield f"  {operator}", _counts(counts)
    if "int8" in total:
        floats = [entry for entry in content["computing"] if entry["precision"] != "int8"]
        shown = floats if nodes else floats[:_SHOWN_NODES]
        for entry in shown:
            yield "  in float", f"{entry['operator']} {entry['name']} ({entry['weight'] or 'no constant weight'})"
        if len(shown) < len(floats):
            yield "", f"and {len(floats) - len(shown)} more; --nodes names them"
    yield "opset", ", ".join(f"{domain} {version}" for domain, version in content["opset"].items())
    for key in ("loss", "data", "teacher", "source_digest", "versions"):
        if content[key]:
            yield key.replace("_", " "), readable(content[key])
    for key, value in content["other_metadata"].items():
        yield key, value


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items())) or "none"


def _weights(weights: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{kind} {entry['count']:,} ({entry['share']:.1%})" for kind, entry in weights.items()) or "none"


def _preprocessing(preprocessing: Any) -> str:
    from export.runtime import preprocessing_in_words

    try:
        where = "inside the file" if preprocessing["inside"] else "left to the caller"
        return f"{where}: {preprocessing_in_words(preprocessing)}"
    except (KeyError, TypeError, ValueError):  # written by others
        return json.dumps(preprocessing)


def _read(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's exceptions share no base class of its own
        raise ModelError(
            f"{path} is not an ONNX file ({first_line(error)}). Give a file that ends in .onnx."
        ) from error
    if not proto.graph.node:
        raise ModelError(f"{path} is not an ONNX file, or one without nodes. Give a file that ends in .onnx.")
    return proto


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of the values of the outer graph, as far as they can be inferred."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]  # a converter may have left them as they were
    with contextlib.suppress(Exception):  # operators of other makes
        bare = onnx.shape_inference.infer_shapes(bare)
    values = [*bare.graph.input, *bare.graph.value_info, *bare.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _factors(node: onnx.NodeProto) -> list[str]:
    """Return the names of the two inputs that are multiplied."""
    places = (0, 3) if node.op_type == "QGemm" or node.op_type.startswith("QLinear") else (0, 1)
    return [node.input[place] for place in places if place < len(node.input)]


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    sides = [entry.dim_value if entry.HasField("dim_value") else entry.dim_param or "?" for entry in tensor.shape.dim]
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
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


def _json(text: str | None) -> Any:
    """Return what a metadata entry holds; the text itself where others wrote something else than JSON."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
