"""An ONNX file that takes preprocessed tensors: the file that takes pixels, with its preprocessing cut off."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from export.onnx.tracing import save
from zoo.errors import ModelError
from zoo.files import replacing
from zoo.formats.onnx_content import DIGEST_KEY

INPUT, OUTPUT = "pixel_values", "image_embeds"
"""Names of input and embedding that transformers.js and fastembed expect."""
_PREPROCESSING = "preprocess/"


def write_tensor_file(pixels: Path, path: Path) -> None:
    """Write the part of a file, of any precision, that follows its preprocessing.

    Args:
        pixels: a file made by export that takes pixels.
        path: the file to write: input ``pixel_values`` float32 ``(N, 3, h, w)``, output ``image_embeds`` float32
            ``(N, dim)``.

    Raises:
        ModelError: the file has no preprocessing that can be separated from the network.
    """
    proto = onnx.load(pixels)
    graph = proto.graph
    entries = {entry.key: entry.value for entry in proto.metadata_props if entry.key != DIGEST_KEY}
    _, height, width = json.loads(entries["preprocessing"])["input_size"]
    entries["preprocessing"] = json.dumps(json.loads(entries["preprocessing"]) | {"inside": False})
    for parts in (graph.node, graph.initializer, graph.value_info):
        kept = [part for part in parts if not part.name.startswith(_PREPROCESSING)]
        del parts[:]
        parts.extend(kept)  # type: ignore[arg-type]
    if not any("tensor" in node.input for node in graph.node):
        raise ModelError(f"{pixels} has no preprocessing that could be cut off. Export the model again.")
    for node in graph.node:
        node.input[:] = [INPUT if name == "tensor" else name for name in node.input]
        node.output[:] = [OUTPUT if name == "embedding" else name for name in node.output]
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["N", 3, height, width]))
    graph.output[0].name = OUTPUT
    with replacing(path) as temporary:
        save(proto, temporary, entries)
