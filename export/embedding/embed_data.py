"""Embedding images into a file: :func:`embed_data`."""

from __future__ import annotations

import logging
from pathlib import Path

from zoo.arguments import require_valid
from zoo.errors import OptionError
from zoo.files import replacing, require_writable, write_json
from zoo.paths import given_path

log = logging.getLogger(__name__)


def embed_data(model: str | Path, source: str | Path, out: str | Path, *, max_unreadable: int = 10) -> Path:
    """Embed images, and write their ids and embeddings to a file.

    Args:
        model: the encoder: an .onnx file, a model folder, or a name such as hf:NAME; see
            docs/how-to/own-teacher.md.
        source: the images: a file, a folder at any depth, or data of any kind, such as csv:FILE (all parts of it).
        out: an .npz file with the arrays ids and embeddings, which distill and validate take as a teacher; or an .npy
            file with the embeddings alone, next to an .ids.json file with the ids in the same order.
        max_unreadable: unreadable images that are reported and left out; one more stops the command.

    Returns:
        The file.

    Raises:
        UserError: a model, images or options that cannot work.
    """
    from export.index.gallery import open_encoder
    from zoo.data import ImageSet, load_images
    from zoo.images import IMAGE_SUFFIXES

    require_valid({"max_unreadable": max_unreadable})
    out = given_path(out)
    if out.suffix not in (".npz", ".npy"):
        raise OptionError(f"{out} ends in neither .npz nor .npy, the formats that are written. Give such a name.")
    require_writable(out.parent)
    encoder = open_encoder(model)
    file = given_path(source)
    alone = file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()
    images = (ImageSet([file.name], [file]) if alone else load_images(source)).checked(max_unreadable)
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
