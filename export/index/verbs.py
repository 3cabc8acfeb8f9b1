"""Searchable galleries: :func:`build_index` and :func:`search_index`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.arguments import DataLike, require_valid
from zoo.errors import OptionError
from zoo.files import require_writable
from zoo.paths import given_path

log = logging.getLogger(__name__)


class Hit(NamedTuple):
    """An image that was found.

    Attributes:
        id: its id in the gallery; for a file, its path relative to the gallery's root.
        score: cosine similarity or Euclidean distance to the query, as exact as the index stores vectors.
    """

    id: str
    score: float


def build_index(
    model: str | Path,
    gallery: DataLike,
    out: str | Path,
    *,
    kind: str = "flat",
    options: dict[str, Any] | None = None,
    columns: dict[str, str] | None = None,
    max_unreadable: int = 10,
    seed: int = 0,
) -> Path:
    """Embed a gallery of images and build a faiss index, for index search.

    The folder ``out`` receives index.faiss, ids.json (the images' ids) and index.json (kind, metric, encoder and its
    digest); see docs/formats.md.

    Args:
        model: the encoder: an .onnx file, a model folder, or a name such as hf:NAME; see docs/how-to/own-teacher.md.
        gallery: the images: a folder at any depth, with or without classes, or data of any kind, such as csv:FILE (all
            parts of it); in Python also a list, a frame or a data set. Or a folder that embed wrote with this encoder.
        out: folder for the index.
        kind: flat (exact), sq8, ivfpq, hnsw or binary; see docs/how-to/search.md.
        options: options of the kind, such as {nlist: 256, m: 16, nprobe: 32} for ivfpq; the others are chosen.
        columns: names of a table's columns, such as {path: file}; see docs/data.md.
        max_unreadable: unreadable images that are reported and left out; one more stops the command.
        seed: seed for the centres of ivfpq and the graph of hnsw.

    Returns:
        The folder.

    Raises:
        UserError: the model, the images or an option is unusable.
    """
    from export.index.gallery import embeddings_by, open_encoder, write_folder
    from export.index.vector_index import make_index, parameters_for
    from zoo.data import load_images
    from zoo.formats.embedding_parts import is_embedding_folder
    from zoo.models.facts import names_only

    require_valid({"max_unreadable": max_unreadable, "seed": seed})
    require_writable(out)
    encoder = open_encoder(model)
    ids: Sequence[str]
    if isinstance(gallery, str | Path) and is_embedding_folder(given_path(gallery)):
        ids, vectors = embeddings_by(encoder, given_path(gallery))
        parameters_for(kind, options, len(ids), encoder.dim)
    else:
        images = load_images(gallery, columns)
        parameters_for(kind, options, len(images), encoder.dim)  # report mistakes before the work
        images = images.checked(max_unreadable)
        ids, vectors = images.ids, encoder.embed(images)
    index = make_index(vectors, kind, encoder.metric, options, seed)
    out = given_path(out)
    gallery_name = names_only(str(gallery)) if isinstance(gallery, str | Path) else type(gallery).__name__
    write_folder(out, index, ids, {"seed": seed, "gallery": gallery_name, "encoder": encoder.facts})
    log.info("%s: %d images, %s", out, len(index), kind)
    return out


def search_index(
    index: str | Path,
    queries: Sequence[str | Path],
    *,
    k: int = 10,
    model: str | Path | None = None,
    allow_other_encoder: bool = False,
) -> list[list[Hit]]:
    """Find the images of an index that are nearest to query images.

    Args:
        index: folder made by index build.
        queries: image files.
        k: number of images to find for each query.
        model: the encoder of the queries; null for the one that built the index, if it is still at the same path.
        allow_other_encoder: allow a different encoder than the one that built the index, such as the int8 file of the
            same student.

    Returns:
        The images found for each query, best first; fewer than k if the index has fewer.

    Raises:
        ModelError: the index or the encoder is missing or broken, or the encoder is not the index's.
        DataError: a query cannot be read.
        OptionError: no queries, or k below 1.
    """
    from export.index.gallery import encoder_for, read_facts, read_vectors
    from zoo.data import ImageSet

    queries = [queries] if isinstance(queries, str | Path) else list(queries)
    if not queries:
        raise OptionError("No query. Name at least one image.")
    require_valid({"k": k})
    if k < 1:
        raise OptionError(f"k is {k}; it must be at least 1.")
    folder = given_path(index)
    facts = read_facts(folder)
    encoder = encoder_for(folder, facts, model, allow_other_encoder)
    vectors, ids = read_vectors(folder, facts)
    files = [given_path(query) for query in queries]
    embeddings = encoder.embed(ImageSet([str(number) for number in range(len(files))], files))
    scores, found = vectors.search(embeddings, k)
    return [
        [Hit(ids[row], score) for row, score in zip(*of_query, strict=True) if row >= 0]
        for of_query in zip(found.tolist(), scores.tolist(), strict=True)
    ]
