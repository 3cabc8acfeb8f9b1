"""The verb demo-web: a static folder with a page that searches a gallery entirely in the browser."""

from __future__ import annotations

import logging
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from export.staging import is_taken, staged
from export.web.packed import KINDS, pack
from export.web.runtime_files import copy_runtime, find_runtime
from zoo.arguments import DataLike, require_valid
from zoo.data import load_images
from zoo.errors import OptionError, require_known
from zoo.files import require_writable, write_json
from zoo.formats.documents import has_keys
from zoo.paths import given_path

log = logging.getLogger(__name__)

HEADER = "gallery.json"
MODEL, VECTORS, THUMBNAILS, PARITY, RUNTIME = "model.onnx", "vectors.bin", "thumbnails", "parity", "runtime"
_SITE = ("index.html", "app.js")
_OURS = (*_SITE, MODEL, VECTORS, THUMBNAILS, PARITY, RUNTIME, HEADER)


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

    The folder has the page, the model, onnxruntime-web, the gallery's vectors and thumbnails, and a parity pack, with
    which the page tests itself when it starts. The page loads nothing from elsewhere and sends nothing. See
    docs/how-to/browser.md.

    Args:
        model: the encoder: an .onnx file of export that takes pixels; int8 is the smallest to load.
        gallery: the images: a folder at any depth, with or without classes, or data of any kind, such as csv:FILE (all
            parts of it); in Python also a list, a frame or a data set.
        out: the folder to write; an earlier page in it is replaced.
        runtime: onnxruntime-web as npm installs it: the package's folder, or its dist.
        kind: how vectors are stored: flat (float32) or sq8 (one byte per dimension).
        vectors: folder that embed wrote with this model, with the images' vectors; null to embed the images.
        webgpu: let browsers that have WebGPU use it, if it passes the test; false saves its part of the runtime, 27 MB.
        columns: names of a table's columns, such as {path: file}; see docs/data.md.
        max_unreadable: unreadable images that are reported and left out; one more stops the command.

    Returns:
        The folder.

    Raises:
        ModelError: the model is missing or broken, does not take pixels, or did not make the vectors.
        DataError: images or vectors are missing or broken.
        OptionError: onnxruntime-web is not at ``runtime``, or ``out`` holds something else.
    """
    from export.index.gallery import open_encoder
    from export.parity.pack import write_parity
    from export.web.contents import header_of, open_model, vectors_of, write_thumbnails

    require_valid({"max_unreadable": max_unreadable})
    require_known("kind", kind, KINDS)
    require_writable(out)
    place = given_path(out)
    _require_ours(place)
    found = find_runtime(given_path(runtime), webgpu)
    file = given_path(model)
    embedder = open_model(file)
    images = load_images(gallery, columns).checked(max_unreadable)
    encoder = open_encoder(file)
    packed = pack(vectors_of(images, encoder, vectors), kind, encoder.metric)
    with staged(place, HEADER, _OURS) as stage:
        with as_file(files("export.web") / "site") as site:
            for name in _SITE:
                shutil.copyfile(site / name, stage / name)
        shutil.copyfile(file, stage / MODEL)
        write_parity({embedder.precision: file}, stage / PARITY)
        about_runtime = copy_runtime(found, stage / RUNTIME)
        write_thumbnails(images, stage / THUMBNAILS)
        (stage / VECTORS).write_bytes(packed.content)
        write_json(stage / HEADER, header_of(embedder, encoder, images, packed, about_runtime))
    size = sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
    log.info(
        "%s: %d images, %s, %.1f MB. Look at it: python -m http.server --directory %s",
        *(place, len(images), kind, size / 1e6, place),
    )
    return place


def _require_ours(place: Path) -> None:
    """Refuse to replace a folder that holds anything other than an earlier page."""
    # A gallery.json alone may be anyone's.
    if is_taken(place) and not has_keys(place / HEADER, "schema", "encoder", "runtime", "ids"):
        raise OptionError(f"{place} is not empty, and holds no page of demo-web. Choose another out.")
