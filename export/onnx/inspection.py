"""The metadata of an ONNX file and the precision of its nodes: :func:`inspect`."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from zoo.errors import ModelError
from zoo.formats.documents import parsed
from zoo.paths import given_path

SCHEMA = 1

# Metadata that to_onnx writes: plain texts, and JSON documents.
_TEXTS = ("architecture", "dim", "metric", "parameters", "precision", "loss", "source_digest", "content_digest")
_DOCUMENTS = ("preprocessing", "quantization", "data", "teacher", "versions")


def inspect(file: str | Path) -> dict[str, Any]:
    """Show inputs, outputs and metadata of an ONNX file, and which of its nodes compute in 8 bits.

    A Conv, Gemm or MatMul computes in int8 if both its inputs come from a DequantizeLinear of 8-bit integers, which
    onnxruntime fuses; integer operators always do. Weights are counted as they are stored: all constants with at least
    one axis, in float or 8 bits, and integer biases, without scales and zero points.

    Args:
        file: an .onnx file; if ``export`` did not make it, less is known.

    Returns:
        See docs/formats.md.

    Raises:
        ModelError: the file, or one that it refers to, is missing, not ONNX, or damaged.
    """
    from export.onnx.graph import Graph, port, read_onnx
    from zoo.formats.onnx_content import digest_of, require_intact, size_of

    path = given_path(file)
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Check the path of the ONNX file.")
    proto = read_onnx(path)
    require_intact(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    graph = Graph(proto)
    computing = graph.computing()
    operators: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in computing:
        operators[entry["operator"]][entry["precision"]] += 1
    return {
        "schema": SCHEMA,
        "file": str(path),
        "bytes": size_of(path),
        "digest": digest_of(path),
        "made_by_export": metadata.get("schema") == "1",
        "inputs": [port(value) for value in proto.graph.input if value.name not in graph.initializers],
        "outputs": [port(value) for value in proto.graph.output],
        **{key: metadata.get(key) for key in _TEXTS},
        **{key: _json(metadata.get(key)) for key in _DOCUMENTS},
        "other_metadata": {k: v for k, v in metadata.items() if k not in (*_TEXTS, *_DOCUMENTS, "schema")},
        "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "nodes": len(graph.nodes),
        "computing": computing,
        "operators": {operator: dict(counts) for operator, counts in sorted(operators.items())},
        "weights": graph.weights(),
        "antialiased_resize": graph.antialiased(),
    }


def _json(text: str | None) -> Any:
    """Parse a metadata entry as JSON; return the text itself if it is not JSON, as in files of other tools."""
    try:
        return None if text is None else parsed(text)
    except ValueError:
        return text
