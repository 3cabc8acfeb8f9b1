"""The content of a page's folder besides the page: model, the gallery's vectors and thumbnails, and header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.index.gallery import Encoder, embeddings_by
from export.onnx.graph import Graph, read_onnx
from export.runtime import Embedder
from export.web.packed import Packed
from zoo.data import ImageSet
from zoo.errors import DataError, ModelError, printable, shown
from zoo.formats.onnx_content import files_of, size_of
from zoo.paths import given_path

SCHEMA = 1
_THUMBNAIL, _QUALITY = 192, 80  # longer side in pixels, displayed at half that size; JPEG quality


def open_model(file: Path) -> Embedder:
    """Open a file that a page can load and run.

    Raises:
        ModelError: the file is missing or broken, takes preprocessed tensors, or has weights in other files.
    """
    if file.suffix != ".onnx":
        raise ModelError(f"{file} is no .onnx file. Make one with export: compressor export {file} model.onnx")
    embedder = Embedder(file)
    if embedder.input != "pixels":
        raise ModelError(
            f"{file} leaves preprocessing to the caller, and a page would do it otherwise. Export with input pixels."
        )
    if files_of(file)[1:]:
        raise ModelError(f"{file} has weights in other files, which a page does not load. Export it again.")
    return embedder


def vectors_of(images: ImageSet, encoder: Encoder, vectors: str | Path | None) -> np.ndarray:
    """Return the images' vectors, float32 ``(N, D)``: computed now, or read from ``vectors``.

    Raises:
        ModelError: the vectors are by another model.
        DataError: the vectors are incomplete, or lack an image.
    """
    if vectors is None:
        return encoder.embed(images)
    ids, read = embeddings_by(encoder, given_path(vectors))
    rows = {name: row for row, name in enumerate(ids)}
    lacking = [name for name in images.ids if name not in rows]
    if lacking:
        raise DataError(
            f"{vectors} has no vector of image {shown(lacking[0])}; {len(lacking)} of {len(images)} images are "
            "missing. Embed these images, or leave vectors out."
        )
    return read[[rows[name] for name in images.ids]]


def write_thumbnails(images: ImageSet, folder: Path) -> None:
    """Write a JPEG of each image, named by its row, because ids may be invalid in file names or URLs."""
    folder.mkdir()
    for row in range(len(images)):
        image = Image.fromarray(images.pixels(row))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        image.save(folder / f"{row}.jpg", "JPEG", quality=_QUALITY)


def header_of(
    embedder: Embedder, encoder: Encoder, images: ImageSet, packed: Packed, runtime: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of gallery.json; see docs/how-to/browser.md."""
    said = {key: encoder.facts[key] for key in ("digest", "source_digest", "architecture", "precision")}
    return {
        "schema": SCHEMA,
        "count": len(images),
        "dim": embedder.dim,
        "metric": embedder.metric,
        "cpu_nodes": Graph(read_onnx(embedder.path)).antialiased(),
        "kind": packed.kind,
        "offset": packed.offset,
        "scale": packed.scale,
        "encoder": said | {"bytes": size_of(embedder.path), "input_size": list(embedder.input_size)},
        "runtime": runtime,
        "ids": [printable(name) for name in images.ids],
    }
