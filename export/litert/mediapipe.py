"""Metadata in a ``.tflite`` file that tells MediaPipe's ImageEmbedder what input the network takes.

Written by the field numbers of MediaPipe's metadata_schema.fbs, because the package mediapipe is large and not needed
for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_RGB = 1
_FEATURES, _IMAGE, _NORMALIZATION = 1, 2, 1  # members of unions
# Field numbers of the schema's tables.
_MODEL = {"name": 0, "description": 1, "subgraphs": 3, "min_parser_version": 7}
_SUBGRAPH = {"inputs": 2, "outputs": 3}
_TENSOR = {"name": 0, "content": 3, "process_units": 4, "stats": 5}
_UNION = {"type": 0, "value": 1}  # layout of Content and ProcessUnit
_NORMALIZED, _STATS = {"mean": 0, "std": 1}, {"max": 0, "min": 1}


def embedder_metadata(name: str, description: str) -> bytes:
    """Return the metadata of a network that takes RGB pixels and returns one embedding.

    The network takes unscaled pixels 0..255, so the normalisation has mean 0 and deviation 1.

    Args:
        name: name of the model.
        description: one sentence about it.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def text(value: str) -> int:
        return int(builder.CreateString(value))

    def vector(values: Sequence[float], places: bool = False) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            (builder.PrependUOffsetTRelative if places else builder.PrependFloat32)(value)
        return int(builder.EndVector())

    def table(fields: Mapping[str, int], kind: int | None = None, **values: int) -> int:
        """Write a table whose fields are offsets; ``kind`` is the type of a union in it."""
        builder.StartObject(1 + max(fields.values(), default=0))
        if kind is not None:
            builder.PrependUint8Slot(fields["type"], kind, 0)
        for field, value in values.items():
            builder.PrependUOffsetTRelativeSlot(fields[field], value, 0)
        return int(builder.EndObject())

    unit = table(_UNION, _NORMALIZATION, value=table(_NORMALIZED, mean=vector([0.0]), std=vector([1.0])))
    image = table(
        _TENSOR,
        name=text("image"),
        content=table(_UNION, _IMAGE, value=table({"type": 0}, _RGB)),
        process_units=vector([unit], places=True),
        stats=table(_STATS, max=vector([255.0]), min=vector([0.0])),
    )
    embedding = table(_TENSOR, name=text("embedding"), content=table(_UNION, _FEATURES, value=table({})))
    subgraph = table(_SUBGRAPH, inputs=vector([image], places=True), outputs=vector([embedding], places=True))
    whole = table(
        _MODEL,
        name=text(name),
        description=text(description),
        subgraphs=vector([subgraph], places=True),
        min_parser_version=text("1.0.0"),
    )
    builder.Finish(whole, _IDENTIFIER)
    return bytes(builder.Output())


def with_metadata(model: bytes, metadata: bytes) -> bytes:
    """Return a ``.tflite`` model with metadata in it.

    Args:
        model: the model.
        metadata: metadata from :func:`embedder_metadata`.
    """
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    content: Any = schema.ModelT.InitFromPackedBuf(model, 0)
    for buffer in content.buffers:
        if buffer.offset > 1:  # the quantiser stores weights after the model, where repacking would lose them
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    kept = schema.BufferT()
    kept.data = np.frombuffer(metadata, np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(content.buffers)
    content.buffers.append(kept)
    content.metadata = [*(content.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + len(metadata) + 1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())
