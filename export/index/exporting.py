"""The verb index export: the vectors of an index for other stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from export.staging import is_taken, staged
from zoo.arguments import require_valid
from zoo.errors import OptionError, require_known
from zoo.extras import is_installed, missing
from zoo.files import digest, replacing, require_writable, write_json
from zoo.formats.documents import read_document
from zoo.formats.embedding_parts import FACTS, EmbeddingFacts, short_name, write_facts, write_part
from zoo.paths import given_path

log = logging.getLogger(__name__)

FORMATS = PARQUET, NPY = ("parquet", "npy")
_ENCODER = "encoder.json"
_OURS = ("part-*.parquet", "vectors-*.npy", "ids-*.json", FACTS, _ENCODER)
_ABOUT = ("model", "model_digest", "metric", "dim", "images", "rows_per_part")
_WHOLE = ("flat", "hnsw", "sq8")  # kinds that can return their vectors; sq8 to the middle of a quantisation step


def export_index(index: str | Path, out: str | Path, *, format: str = PARQUET, rows_per_part: int = 10_000) -> Path:
    """Write the vectors of an index for other stores: Parquet as embed writes it, or .npy files.

    Parquet files have the columns id and vector (of fixed size), and the encoder's digest in their schema's metadata;
    index build reads the folder like one that embed wrote. With npy, each vectors-NNNNN.npy, float32 (N, D), has its
    ids in ids-NNNNN.json, and encoder.json has the digest. Vectors from sq8 have the accuracy of its 8-bit codes.

    Args:
        index: folder made by index build, of kind flat, hnsw or sq8.
        out: the folder to write: new, empty, or with an earlier export of the same index.
        format: parquet or npy.
        rows_per_part: images in each file.

    Returns:
        The folder.

    Raises:
        ModelError: the index is missing or broken.
        OptionError: the index's kind keeps no vectors, or ``out`` holds something else.
        MissingExtraError: pyarrow, for Parquet, or faiss is not installed.
    """
    require_valid({"rows_per_part": rows_per_part})
    require_known("format", format, FORMATS)
    require_writable(out)
    source, place = given_path(index), given_path(out)
    last = FACTS if format == PARQUET else _ENCODER
    if format == PARQUET and not is_installed("pyarrow"):
        raise missing(f"The folder {place} of Parquet files", "pyarrow")
    from export.index.gallery import read_facts, read_vectors

    said = read_facts(source)
    if said["kind"] not in _WHOLE:
        raise OptionError(
            f"{source} is of kind {said['kind']}, which does not keep vectors. Build one of kind flat for this, or "
            "embed the images to a folder."
        )
    stored, ids = read_vectors(source, said)
    inner = stored.faiss
    vectors: np.ndarray = inner.vectors if hasattr(inner, "vectors") else inner.reconstruct_n(0, len(stored))
    facts = EmbeddingFacts(
        model=short_name(said["encoder"]["source"]),
        model_digest=said["encoder"]["digest"],
        metric=said["metric"],
        dim=stored.dim,
        dtype="float32",
        images_digest=digest(source / "ids.json")[:16],
        images=len(ids),
        rows_per_part=rows_per_part,
    )
    about = {name: getattr(facts, name) for name in _ABOUT}
    if is_taken(place) and not _says(place / last, about):
        raise OptionError(f"{place} is not empty. Choose another out.")
    left = [file.name for pattern in _OURS for file in place.glob(pattern)]
    with staged(place, last, left) as stage:
        for part in range(facts.parts):
            rows = slice(part * rows_per_part, (part + 1) * rows_per_part)
            if format == PARQUET:
                write_part(stage, part, facts, ids[rows], vectors[rows], None, ())
            else:
                with replacing(stage / f"vectors-{part:05d}.npy") as temporary:
                    np.save(temporary, vectors[rows])
                write_json(stage / f"ids-{part:05d}.json", ids[rows])
        if format == PARQUET:
            write_facts(stage, facts)
        else:
            write_json(stage / _ENCODER, about)
    log.info("%s: %d vectors in %d parts, %d dimensions", place, len(ids), facts.parts, facts.dim)
    return place


def _says(file: Path, about: dict[str, Any]) -> bool:
    """Return whether the file written last by an earlier export describes the same index."""
    try:
        found = read_document(file)
    except (OSError, ValueError):
        return False
    return all(found.get(name) == value for name, value in about.items())
