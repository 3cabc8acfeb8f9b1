"""The encoder of a gallery's images, and the folder of its index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.index.vector_index import OPTIONS, VectorIndex, read_index, write_index
from export.runtime import Embedder
from zoo.data.image_set import ImageSet
from zoo.errors import ForeignModelError, ModelError, first_line
from zoo.extras import require_extra
from zoo.files import digest, replacing, write_json
from zoo.formats.documents import (
    MAPPING,
    TEXT,
    maybe,
    one_of,
    parsed,
    read_document,
    read_text,
    require_kinds,
    seal_of,
    whole,
)
from zoo.formats.embedding_parts import read_embeddings
from zoo.formats.onnx_content import digest_of
from zoo.models.facts import names_only
from zoo.paths import expanded, is_there
from zoo.progress import progress
from zoo.teachers.address import FAMILIES, Address, parse_address, path_of
from zoo.versions import versions

SCHEMA = 1
_FACTS, _IDS, _VECTORS = "index.json", "ids.json", "index.faiss"
_OF_INDEX = {
    "kind": TEXT,
    "metric": one_of("cosine", "euclidean"),
    "dim": whole(1, 2**31 - 1),
    "count": whole(1),
    "fixed_bytes": whole(0),
    "parameters": MAPPING,
}
_OF_ENCODER = dict.fromkeys(("source", "digest", "precision"), TEXT)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model that embeds images for an index.

    Attributes:
        embed: embeds an image set; returns float32 ``(N, D)``, or raises a ModelError where one is not finite.
        metric: "cosine" or "euclidean".
        dim: dimensions of the embeddings.
        facts: source, digest, source_digest, architecture and precision, as index.json keeps them.
    """

    embed: Callable[[ImageSet], np.ndarray]
    metric: str
    dim: int
    facts: dict[str, Any]


def open_encoder(model: str | Path, threads: int | None = None) -> Encoder:
    """Open an .onnx file, a model folder or a named model. An .onnx file made by export needs only onnxruntime.

    Args:
        model: what to open.
        threads: threads per inference for an .onnx file made by export; None for all cores.

    Raises:
        ModelError: the model is missing or broken.
    """
    encoder = _opened(model, threads)
    return replace(encoder, embed=partial(_finite, encoder.embed, str(encoder.facts["source"])))


def _finite(embed: Callable[[ImageSet], np.ndarray], source: str, images: ImageSet) -> np.ndarray:
    return images.require_finite(embed(images), source)


def _opened(model: str | Path, threads: int | None) -> Encoder:
    path = path_of(model)
    if path is None or path.suffix == ".npz":
        return _of_another_make(model)
    if path.suffix == ".onnx":
        try:
            embedder = Embedder(path, threads)
        except ForeignModelError:
            return _of_another_make(path)
        said = {key: embedder.metadata.get(key) for key in ("source_digest", "architecture", "precision")}
        facts = {"source": str(path), "digest": digest_of(path), **said}
        return Encoder(partial(embed_images, embedder), embedder.metric, embedder.dim, facts)

    require_extra("train", f"Model folder {path}")
    from zoo.models.embedding import embed, fastest_device
    from zoo.models.facts import facts_of
    from zoo.models.folder import load_model
    from zoo.models.network import preprocessing_of, summary_of
    from zoo.teachers.opening import family_of

    if family_of(path) is not None:
        return _of_another_make(path)
    network = load_model(path)
    summary, weights = summary_of(network), digest(path / "model.safetensors")
    dim = int(summary["dim"] or network.num_features)  # type: ignore[arg-type]
    said = {"source_digest": weights, "architecture": summary["architecture"], "precision": "fp32"}
    # The same weights with another preprocessing are another encoder.
    whole = hashlib.sha256(f"{weights} {preprocessing_of(network)}".encode()).hexdigest()
    facts = {"source": str(path), "digest": whole, **said}
    return Encoder(partial(embed, network.to(fastest_device())), facts_of(network).metric, dim, facts)


def _of_another_make(model: str | Path) -> Encoder:
    """Open, as a teacher, a file that this project did not export or a model of another library."""
    from zoo.models.embedding import fastest_device
    from zoo.teachers.opening import open_teacher
    from zoo.teachers.ready import ArrayTeacher

    teacher = open_teacher(model)
    if isinstance(teacher, ArrayTeacher):
        raise ModelError(
            f"{model} holds embeddings and embeds no images. Give an .onnx file, a model folder or a name."
        )
    shown = ImageSet(["blank"], [np.zeros((64, 64, 3), np.uint8)])
    dim = int(teacher.to(fastest_device()).embed_images(shown).shape[1])
    unknown = dict.fromkeys(("source_digest", "architecture"))
    facts = {"source": str(model), "digest": teacher.digest, **unknown, "precision": "as it comes"}
    return Encoder(teacher.embed_images, teacher.metric, dim, facts)


def embed_images(embedder: Embedder, images: ImageSet) -> np.ndarray:
    """Embed an image set with an ONNX file; returns float32 ``(N, dim)``."""
    pixels = (images.pixels(i) for i in progress(range(len(images)), "embedding"))
    return np.asarray(embedder(pixels))


def embeddings_by(encoder: Encoder, folder: Path) -> tuple[list[str], np.ndarray]:
    """Return ids and vectors, float32 ``(N, D)``, of a folder of embeddings.

    Raises:
        ModelError: another encoder made them.
        DataError: the folder is incomplete.
    """
    facts, part = read_embeddings(folder)
    if facts.model_digest != encoder.facts["digest"]:
        raise ModelError(
            f"{folder} has embeddings by {facts.model} (digest {facts.model_digest[:12]}), and the encoder is "
            f"{_named(encoder.facts)}. Their vectors need not be comparable: give the encoder that made them, or embed "
            "again."
        )
    return part.ids, part.vectors


def write_folder(folder: Path, index: VectorIndex, ids: Sequence[str], facts: dict[str, Any]) -> None:
    """Write index.faiss, ids.json and, last, index.json; a folder that has index.json is complete.

    Args:
        folder: created if it does not exist; an index in it is replaced.
        index: the vectors.
        ids: ids of the images, in the order of the vectors.
        facts: content of index.json besides what ``index`` holds.
    """
    with replacing(folder / _VECTORS) as temporary:
        write_index(index, temporary)
        (folder / _FACTS).unlink(missing_ok=True)
    size = (folder / _VECTORS).stat().st_size
    write_json(folder / _IDS, list(ids))
    known = {
        "schema": SCHEMA,
        "kind": index.kind,
        "parameters": index.parameters,
        "metric": index.metric,
        "dim": index.dim,
        "count": len(index),
        "fixed_bytes": index.fixed_bytes,
        "bytes_per_vector": (size - index.fixed_bytes) / len(index),
    }
    content = known | facts | {"versions": versions()}
    content["encoder"] = dict(facts["encoder"]) | {"source": _as_seen_from(folder, facts["encoder"]["source"])}
    content["digests"] = {name: digest(folder / name) for name in (_VECTORS, _IDS)}
    write_json(folder / _FACTS, content | {"seal": seal_of(content)})


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the content of index.json.

    Raises:
        ModelError: the folder is not an index, has another schema, or index.json is damaged.
    """
    file = folder / _FACTS
    try:
        facts = read_document(file)
    except OSError as error:
        raise ModelError(f"{folder} is not an index: it has no {_FACTS}. Make one with index build.") from error
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON ({first_line(error)}). Build the index again.") from error
    if facts.get("schema") != SCHEMA:
        raise ModelError(
            f"{file} does not have schema {SCHEMA}, the one that this version reads. Build the index again."
        )
    try:
        require_kinds(facts, _OF_INDEX | {"encoder": MAPPING}, {"digests": MAPPING, "seal": TEXT})
        require_kinds(facts["encoder"], _OF_ENCODER, {"source_digest": maybe(TEXT), "architecture": maybe(TEXT)})
        require_kinds(facts.get("digests", {}), {}, {_VECTORS: TEXT, _IDS: TEXT})
        fitting = OPTIONS.get(facts["kind"])
        if fitting is None or set(facts["parameters"]) != set(fitting):
            raise ValueError(f"it says kind {facts['kind']!r}, which its parameters do not fit")
        require_kinds(facts["parameters"], dict.fromkeys(fitting, whole(1, 2**31)))
    except ValueError as error:
        raise ModelError(f"{file} is broken: {error}. Build the index again.") from error
    plain = {key: value for key, value in facts.items() if key != "seal"}
    _require_same(file, seal_of(plain), facts.get("seal"), "it")
    return facts


def read_vectors(folder: Path, facts: dict[str, Any]) -> tuple[VectorIndex, list[str]]:
    """Return the vectors and their ids.

    Raises:
        ModelError: a file is missing, broken or damaged, or belongs to another index.
    """
    said = facts.get("digests", {})
    try:
        ids = parsed(read_text(folder / _IDS))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / _IDS} is missing or broken. Build the index again.") from error
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise ModelError(f"{folder / _IDS} must be a list of texts. Build the index again.")
    if _VECTORS in said and (folder / _VECTORS).is_file():  # before faiss reads a file that may be damaged
        _require_same(folder / _VECTORS, digest(folder / _VECTORS), said[_VECTORS], _FACTS)
    vectors = read_index(folder / _VECTORS, facts["kind"], facts["metric"], facts["parameters"], facts["fixed_bytes"])
    if not len(ids) == len(vectors) == facts["count"] or vectors.dim != facts["dim"]:
        raise ModelError(
            f"The files of index {folder} do not belong together: {_FACTS} says {facts['count']} images, {_IDS} has "
            f"{len(ids)} and {_VECTORS} {len(vectors)}. Build the index again."
        )
    _require_same(folder / _IDS, digest(folder / _IDS), said.get(_IDS), _FACTS)
    return vectors, ids


def _require_same(file: Path, found: str, said: str | None, who: str) -> None:
    if said is not None and found != said:
        raise ModelError(
            f"{file} has changed since index build wrote it: its digest is {found[:16]}, but {who} says {said[:16]}. "
            "Build the index again."
        )


def encoder_for(folder: Path, facts: dict[str, Any], model: str | Path | None, allow_other: bool) -> Encoder:
    """Open the encoder of the queries.

    Args:
        folder: folder of the index.
        facts: content of its index.json.
        model: the encoder; None for the one that the index was built with.
        allow_other: accept an encoder with another digest.

    Raises:
        ModelError: the encoder is missing or broken, its vectors cannot be compared with the index's, or its digest
            differs.
    """
    built_with = facts["encoder"] | {"source": _found_from(folder, facts["encoder"]["source"])}
    source = str(built_with["source"] if model is None else model)
    path = path_of(source)
    if model is None and path is not None and not path.exists():
        raise ModelError(f"{source}, which index {folder} was built with, no longer exists. Pass model.")
    encoder = open_encoder(source)
    for what, here, there in (("dim", encoder.dim, facts["dim"]), ("metric", encoder.metric, facts["metric"])):
        if here != there:
            raise ModelError(
                f"{source} has {what} {here}, but index {folder}, built with {built_with['source']}, has {there}. "
                "Their vectors cannot be compared; search with the encoder it was built with."
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


def _as_seen_from(folder: Path, source: str) -> str:
    """Return an encoder's name, its path if any made relative to the index, so that both can be moved together."""
    address = parse_address(source)
    if (place := _place_of(address)) is None:
        return source
    try:
        return _with_place(address, Path(os.path.relpath(place.resolve(), folder.resolve())).as_posix())
    except ValueError:  # on another drive
        return str(names_only(source))


def _found_from(folder: Path, source: str) -> str:
    """Return an encoder's name with its path resolved against the index, or unchanged if nothing is there."""
    address = parse_address(source)
    here = os.path.normpath(folder.resolve() / address.name)
    return source if _place_of(replace(address, name=here)) is None else _with_place(address, here)


def _place_of(address: Address) -> Path | None:
    """Return the file or folder that an address names; None where nothing is there, or a library's name is meant."""
    place = expanded(address.name)
    if address.family in ("timm", "hf-hub"):
        from zoo.models.folder import folder_named

        return folder_named(address.name)
    return place if is_there(place) and (address.family not in FAMILIES or place.is_dir()) else None


def _with_place(address: Address, path: str) -> str:
    """Return an address as text, with another path in place of its own."""
    start = 0 if address.family is None else len(address.family) + 1
    return address.text[:start] + path + address.text[start + len(address.name) :]


def _named(facts: dict[str, Any]) -> str:
    return f"{facts['source']} ({facts['precision']}, digest {facts['digest'][:12]})"
