"""The verb demo-web: a static folder whose page searches a gallery with the model, in the browser alone."""

from __future__ import annotations

import logging
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from export.web.packed import KINDS, Packed, pack
from export.web.runtime_files import copy_runtime, find_runtime
from zoo.arguments import DataLike, require_valid
from zoo.data import ImageSet, load_images
from zoo.errors import DataError, ModelError, OptionError, require_known, shown
from zoo.files import require_writable, write_json
from zoo.formats.onnx_content import files_of, size_of
from zoo.paths import given_path

if TYPE_CHECKING:
    from export.index.gallery import Encoder
    from export.runtime import Embedder

log = logging.getLogger(__name__)

SCHEMA = 1
HEADER = "gallery.json"
MODEL, VECTORS, THUMBNAILS = "model.onnx", "vectors.bin", "thumbnails"
_SITE = ("index.html", "app.js")
_THUMBNAIL, _QUALITY = 192, 80  # the longer side in pixels, shown at half of it; of JPEG


def demo_web(
    model: str | Path,
    gallery: DataLike,
    out: str | Path,
    *,
    runtime: str | Path = "node_modules/onnxruntime-web",
    kind: str = "flat",
    vectors: str | Path | None = None,
    webgpu: bool = True,
    columns: dict[str, str] | None = None,
    max_unreadable: int = 10,
) -> Path:
    """Write a page that searches a gallery in the browser: a static folder, which needs no server of ours.

    The folder has the page, the model, onnxruntime-web, the gallery's vectors and thumbnails, and a parity pack, which
    the page tests itself with when it starts. The page loads nothing from elsewhere and sends nothing. See
    docs/how-to/browser.md.

    Args:
        model: the encoder: an .onnx file of export that takes pixels; int8 is the smallest to load.
        gallery: the images: a folder at any depth, with or without classes, or data of any kind, such as csv:FILE (all
            parts of it); in Python also a list, a frame or a data set.
        out: the folder to write; an earlier page in it is replaced.
        runtime: onnxruntime-web as npm installs it: the package's folder, or its dist.
        kind: how vectors are stored: flat (float32) or sq8 (a byte a dimension).
        vectors: the images' vectors by this model, a folder that embed wrote; null to embed the images.
        webgpu: let browsers that have WebGPU use it, if it passes the test; false saves its part of the runtime, 27 MB.
        columns: of tables: what their columns are called, such as {path: file}; see docs/data.md.
        max_unreadable: unreadable images that are reported and left out; one more stops the command.

    Returns:
        The folder.

    Raises:
        ModelError: the model is missing or broken, does not take pixels, or did not make the vectors.
        DataError: images or vectors are missing or broken.
        OptionError: onnxruntime-web is not at ``runtime``, or ``out`` holds something else.
    """
    from export.parity.pack import write_parity

    require_valid({"max_unreadable": max_unreadable})
    require_known("kind", kind, KINDS)
    require_writable(out)
    place = given_path(out)
    _require_ours(place)
    found = find_runtime(given_path(runtime), webgpu)
    file = given_path(model)
    embedder = _open(file)
    images = load_images(gallery, columns).checked(max_unreadable)
    from export.index.gallery import open_encoder

    encoder = open_encoder(file)
    packed = pack(_vectors_of(images, encoder, vectors), kind, encoder.metric)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as temporary:
        stage = Path(temporary) / "site"
        stage.mkdir()
        with as_file(files("export.web") / "site") as site:
            for name in _SITE:
                shutil.copyfile(site / name, stage / name)
        shutil.copyfile(file, stage / MODEL)
        write_parity({embedder.precision: file}, stage / "parity")
        about_runtime = copy_runtime(found, stage / "runtime")
        _write_thumbnails(images, stage / THUMBNAILS)
        (stage / VECTORS).write_bytes(packed.content)
        write_json(stage / HEADER, _header(embedder, encoder, images, packed, about_runtime))
        if place.exists():
            shutil.rmtree(place)
        stage.rename(place)
    size = sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
    log.info(
        "%s: %d images, %s, %.1f MB. Look at it: python -m http.server --directory %s",
        *(place, len(images), kind, size / 1e6, place),
    )
    return place


def _require_ours(place: Path) -> None:
    """Refuse to replace a folder that holds anything but an earlier page."""
    if place.is_dir() and any(place.iterdir()) and not (place / HEADER).is_file():
        raise OptionError(f"{place} is not empty, and holds no page of demo-web. Choose another out.")


def _open(file: Path) -> Embedder:
    if file.suffix != ".onnx":
        raise ModelError(f"{file} is no .onnx file. Make one with export: compressor export {file} model.onnx")
    from export.runtime import Embedder

    embedder = Embedder(file)
    if embedder.input != "pixels":
        raise ModelError(
            f"{file} leaves preprocessing to the caller, and a page would do it otherwise. Export with input pixels."
        )
    if files_of(file)[1:]:
        raise ModelError(f"{file} has weights in other files, which a page does not load. Export it again.")
    return embedder


def _vectors_of(images: ImageSet, encoder: Encoder, vectors: str | Path | None) -> np.ndarray:
    """Return the images' vectors, float32 ``(N, D)``: made now, or read."""
    if vectors is None:
        return encoder.embed(images)
    from export.index.gallery import embeddings_by

    ids, read = embeddings_by(encoder, given_path(vectors))
    rows = {name: row for row, name in enumerate(ids)}
    lacking = [name for name in images.ids if name not in rows]
    if lacking:
        raise DataError(
            f"{vectors} has no vector of image {shown(lacking[0])}; {len(lacking)} of {len(images)} images are "
            "missing. Embed these images, or leave vectors out."
        )
    return read[[rows[name] for name in images.ids]]


def _write_thumbnails(images: ImageSet, folder: Path) -> None:
    """Write a JPEG of each image, named by its row: ids may be no names of files, or of addresses."""
    folder.mkdir()
    for row in range(len(images)):
        image = Image.fromarray(images.pixels(row))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        image.save(folder / f"{row}.jpg", "JPEG", quality=_QUALITY)


def _antialiased(file: Path) -> list[str]:
    """Return the names of nodes that onnxruntime-web's WebGPU does not compute: Resize with antialiasing."""
    from export.onnx.graph import read_onnx

    nodes = [node for node in read_onnx(file).graph.node if node.op_type == "Resize"]
    return [node.name for node in nodes if any(each.name == "antialias" and each.i for each in node.attribute)]


def _header(
    embedder: Embedder, encoder: Encoder, images: ImageSet, packed: Packed, runtime: dict[str, Any]
) -> dict[str, Any]:
    said = {key: encoder.facts[key] for key in ("digest", "source_digest", "architecture", "precision")}
    return {
        "schema": SCHEMA,
        "count": len(images),
        "dim": embedder.dim,
        "metric": embedder.metric,
        "cpu_nodes": _antialiased(embedder.path),
        "kind": packed.kind,
        "offset": packed.offset,
        "scale": packed.scale,
        "encoder": said | {"bytes": size_of(embedder.path), "input_size": list(embedder.input_size)},
        "runtime": runtime,
        "ids": [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in images.ids],
    }
