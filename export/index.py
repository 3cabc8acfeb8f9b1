"""Galleries that can be searched: :func:`build_index` and :func:`search_index`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import ModelError, OptionError

if TYPE_CHECKING:
    import numpy as np

    from export.runtime import Embedder
    from export.vector_index import VectorIndex
    from zoo.data import ImageSet

log = logging.getLogger(__name__)

SCHEMA = 1
_FACTS, _IDS, _VECTORS = "index.json", "ids.json", "index.faiss"


class Hit(NamedTuple):
    """An image that was found.

    Attributes:
        id: its id in the gallery; of a file, its path relative to the gallery's root.
        score: cosine similarity, or Euclidean distance, to the query, as far as the index knows it.
    """

    id: str
    score: float


@dataclass(frozen=True, eq=False)
class Encoder:
    """What embeds images for an index.

    Attributes:
        embed: embeds a whole set; float32 ``(N, D)``.
        metric: "cosine" or "euclidean".
        dim: dimensions of the embeddings.
        facts: source, digest, source_digest, architecture and precision, as index.json keeps them.
    """

    embed: Callable[[ImageSet], np.ndarray]
    metric: str
    dim: int
    facts: dict[str, Any]


def build_index(
    model: str | Path,
    gallery: str,
    out: str | Path,
    *,
    kind: str = "flat",
    options: dict[str, Any] | None = None,
    max_unreadable: int = 10,
    seed: int = 0,
) -> Path:
    """Embed a gallery of images and make a faiss index of it, to be searched with index search.

    The folder ``out`` receives index.faiss, ids.json (the images' ids) and index.json (kind, metric, encoder and its
    digest); see docs/formats.md.

    Args:
        model: what embeds the images: an .onnx file made by export, or a model folder.
        gallery: the images: a folder, however deep, with classes or without, or data of any kind, such as csv:FILE; of
            data with a split, all images.
        out: folder for the index.
        kind: flat (exact), sq8, ivfpq, hnsw or binary; see docs/indexes.md.
        options: of the kind, such as {nlist: 256, m: 16, nprobe: 32} for ivfpq; those left out are chosen.
        max_unreadable: how many unreadable images are reported and left out before it stops.
        seed: of the centres of ivfpq and the graph of hnsw.

    Returns:
        The folder.

    Raises:
        UserError: a model, images or options that cannot work.
    """
    from export.vector_index import make_index, parameters_for, write_index
    from zoo.data import load_images
    from zoo.files import write_json
    from zoo.versions import versions

    encoder = open_encoder(Path(model))
    images = load_images(gallery)
    parameters_for(kind, options, len(images), encoder.dim)  # mistakes are told before the work
    images = images.checked(max_unreadable)
    index = make_index(encoder.embed(images), kind, encoder.metric, options, seed)
    out = Path(out)
    (out / _FACTS).unlink(missing_ok=True)  # comes last: a folder that has it is whole
    write_index(index, out / _VECTORS)
    write_json(out / _IDS, list(images.ids))
    facts = {
        "schema": SCHEMA,
        "kind": kind,
        "parameters": index.parameters,
        "seed": seed,
        "metric": index.metric,
        "dim": index.dim,
        "count": len(index),
        "fixed_bytes": index.fixed_bytes,
        "bytes_per_vector": index.bytes_per_vector,
        "gallery": gallery,
        "encoder": encoder.facts,
        "versions": versions(),
    }
    write_json(out / _FACTS, facts)
    log.info("%s: %d images, %.1f bytes each", out, len(index), index.bytes_per_vector)
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
        k: how many images to find for each.
        model: what embeds the queries; null for the encoder that the index was built with, where it was then.
        allow_other_encoder: search with another encoder than the index was built with, such as the int8 file of the
            same student.

    Returns:
        For each query what was found, best first; fewer than k where the index has fewer.

    Raises:
        ModelError: the index or the encoder is missing or broken, or the encoder is another one.
        DataError: a query cannot be read.
        OptionError: no queries, or k below 1.
    """
    from zoo.data import ImageSet

    queries = [queries] if isinstance(queries, str | Path) else list(queries)
    if not queries:
        raise OptionError("No query. Name at least one image.")
    if k < 1:
        raise OptionError(f"k is {k}; it must be at least 1.")
    folder = Path(index)
    facts = _facts(folder)
    encoder = _encoder_for(folder, facts, model, allow_other_encoder)
    vectors, ids = _read(folder, facts)
    files = [Path(query) for query in queries]
    embeddings = encoder.embed(ImageSet([str(number) for number in range(len(files))], files))
    scores, found = vectors.search(embeddings, k)
    return [
        [Hit(ids[row], score) for row, score in zip(*of_query, strict=True) if row >= 0]
        for of_query in zip(found.tolist(), scores.tolist(), strict=True)
    ]


def open_encoder(path: Path) -> Encoder:
    """Open an .onnx file, for which onnxruntime is enough, or a model folder.

    Raises:
        ModelError: it is missing or broken.
    """
    from zoo.files import digest

    if path.suffix == ".onnx":
        from export.runtime import Embedder

        embedder = Embedder(path)
        said = {key: embedder.metadata.get(key) for key in ("source_digest", "architecture", "precision")}
        facts = {"source": str(path), "digest": digest(path), **said}
        return Encoder(partial(embed_images, embedder), embedder.metric, embedder.dim, facts)

    from zoo.embedding import embed, fastest_device
    from zoo.models import facts_of, load_model, summary_of

    network = load_model(path)
    summary, weights = summary_of(network), digest(path / "model.safetensors")
    said = {"source_digest": weights, "architecture": summary["architecture"], "precision": "fp32"}
    facts = {"source": str(path), "digest": weights, **said}
    return Encoder(partial(embed, network.to(fastest_device())), facts_of(network).metric, int(summary["dim"]), facts)


def embed_images(embedder: Embedder, images: ImageSet) -> np.ndarray:
    """Embed a set of images with an ONNX file; float32 ``(N, dim)``."""
    import numpy as np
    from tqdm import tqdm

    pixels = (images.pixels(i) for i in tqdm(range(len(images)), desc="embedding", leave=False))
    return np.asarray(embedder(pixels))


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / _FACTS
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} is not an index: it has no {_FACTS}. Make one with index build.") from error
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON. Build the index anew.") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise ModelError(f"{file} does not say schema {SCHEMA}, which this version reads. Build the index anew.")
    return facts


def _read(folder: Path, facts: dict[str, Any]) -> tuple[VectorIndex, list[str]]:
    """Return the vectors and their ids."""
    from export.vector_index import read_index

    vectors = read_index(folder / _VECTORS, facts["kind"], facts["metric"], facts["parameters"], facts["fixed_bytes"])
    try:
        ids = json.loads((folder / _IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / _IDS} is missing or broken. Build the index anew.") from error
    if not len(ids) == len(vectors) == facts["count"] or vectors.dim != facts["dim"]:
        raise ModelError(
            f"The files of index {folder} do not belong together: {_FACTS} says {facts['count']} images, {_IDS} has "
            f"{len(ids)} and {_VECTORS} {len(vectors)}. Build the index anew."
        )
    return vectors, ids


def _encoder_for(folder: Path, facts: dict[str, Any], model: str | Path | None, allow_other: bool) -> Encoder:
    """Open the encoder of the queries; refuse one whose vectors cannot be compared with the index's."""
    built_with = facts["encoder"]
    path = Path(built_with["source"] if model is None else model)
    if model is None and not path.exists():
        raise ModelError(f"{path}, which index {folder} was built with, is no longer there. Give model.")
    encoder = open_encoder(path)
    for what, here, there in (("dim", encoder.dim, facts["dim"]), ("metric", encoder.metric, facts["metric"])):
        if here != there:
            raise ModelError(
                f"{path} has {what} {here}, but index {folder}, built with {built_with['source']}, has {there}. Their "
                "vectors cannot be compared; search with the encoder it was built with."
            )
    if encoder.facts["digest"] != built_with["digest"] and not allow_other:
        kin = encoder.facts["source_digest"] is not None
        if kin and encoder.facts["source_digest"] == built_with["source_digest"]:
            remedy = "Both were made from the same student, so this may be meant: then set allow_other_encoder to true."
        else:
            remedy = "Their vectors need not be comparable: give the other file, or set allow_other_encoder to true."
        raise ModelError(
            f"Index {folder} was built with {_named(built_with)}, but the queries are for {_named(encoder.facts)}. "
            f"{remedy}"
        )
    return encoder


def _named(facts: dict[str, Any]) -> str:
    return f"{facts['source']} ({facts['precision']}, digest {facts['digest'][:12]})"
