"""Embedding images into a file: :func:`embed_data`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.arguments import DataLike, require_valid
from zoo.errors import OptionError
from zoo.files import replacing, require_writable, write_json
from zoo.paths import given_path

if TYPE_CHECKING:
    from zoo.data import ImageSet

log = logging.getLogger(__name__)


def embed_data(
    model: str | Path,
    source: DataLike,
    out: str | Path,
    *,
    columns: dict[str, str] | None = None,
    max_unreadable: int = 10,
) -> Path:
    """Embed images, and write their ids and embeddings to a file.

    Args:
        model: the encoder: an .onnx file, a model folder, or a name such as hf:NAME; see
            docs/how-to/own-teacher.md.
        source: the images: a file, a folder at any depth, or data of any kind, such as csv:FILE (all parts of it); in
            Python also a list, a frame or a data set.
        out: an .npz file with the arrays ids and embeddings, which distill and validate take as a teacher; or an .npy
            file with the embeddings alone, next to an .ids.json file with the ids in the same order.
        columns: of tables: what their columns are called, such as {path: file}; see docs/data.md.
        max_unreadable: unreadable images that are reported and left out; one more stops the command.

    Returns:
        The file.

    Raises:
        UserError: a model, images or options that cannot work.
    """
    from export.index.gallery import open_encoder
    from zoo.data import load_images

    require_valid({"max_unreadable": max_unreadable})
    out = given_path(out)
    if out.suffix not in (".npz", ".npy"):
        raise OptionError(f"{out} ends in neither .npz nor .npy, the formats that are written. Give such a name.")
    require_writable(out.parent)
    encoder = open_encoder(model)
    images = (_alone(source) or load_images(source, columns)).checked(max_unreadable)
    embeddings = encoder.embed(images)

    import numpy as np

    if out.suffix == ".npy":
        write_json(out.with_suffix(".ids.json"), list(images.ids))
    with replacing(out) as temporary:
        if out.suffix == ".npy":
            np.save(temporary, embeddings)
        else:
            np.savez(temporary, ids=np.array(images.ids), embeddings=embeddings)
    log.info("%s: %d images, %d dimensions", out, len(images), encoder.dim)
    return out


def _alone(source: DataLike) -> ImageSet | None:
    """Return the image that a path names, or None where it names something else."""
    from zoo.data import ImageSet
    from zoo.data.sources.addresses import is_address
    from zoo.images import IMAGE_SUFFIXES

    if not isinstance(source, str | Path) or is_address(str(source)):
        return None
    file = given_path(source)
    return ImageSet([file.name], [file]) if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir() else None
