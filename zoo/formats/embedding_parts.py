"""A folder of embeddings: Parquet files, and _embeddings.json, which describes all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError, first_line, printable
from zoo.extras import is_installed, missing
from zoo.files import replacing, write_json
from zoo.formats.documents import MAPPING, TEXT, list_of, one_of, parsed, read_document, require_kinds, seal_of, whole

SCHEMA = 1
FACTS = "_embeddings.json"
METADATA_KEY = b"embedding_compressor"
DTYPES = ("float32", "float16")
_UNREADABLE = list_of(list_of(TEXT, 2))
_OF_FACTS = {
    "schema": whole(1),
    "model": TEXT,
    "model_digest": TEXT,
    "metric": one_of("cosine", "euclidean"),
    "dim": whole(1, 2**20),
    "dtype": one_of(*DTYPES),
    "images_digest": TEXT,
    "images": whole(1),
    "rows_per_part": whole(1),
}


@dataclass(frozen=True)
class EmbeddingFacts:
    """What all parts of a folder have in common.

    Attributes:
        model: name of the model.
        model_digest: changes when the model does.
        metric: "cosine" or "euclidean".
        dim: dimensions D.
        dtype: "float32" or "float16".
        images_digest: changes when the images do.
        images: number of images, including unreadable ones.
        rows_per_part: images in each part, including unreadable ones; the last may have fewer.
    """

    model: str
    model_digest: str
    metric: str
    dim: int
    dtype: str
    images_digest: str
    images: int
    rows_per_part: int

    @property
    def parts(self) -> int:
        """Return the number of parts."""
        return -(-self.images // self.rows_per_part)


def short_name(source: str) -> str:
    """Return the name of a model in embeddings: the last part of its path."""
    return source.rstrip("/").split("/")[-1]


def is_embedding_folder(path: Path) -> bool:
    """Return whether a path is a folder of embeddings."""
    return (path / FACTS).is_file()


def part_file(folder: Path, part: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{part:05d}.parquet"


def write_facts(folder: Path, facts: EmbeddingFacts) -> None:
    """Write _embeddings.json."""
    content: dict[str, Any] = {"schema": SCHEMA, **asdict(facts)}
    write_json(folder / FACTS, content | {"seal": seal_of(content)})


def read_facts(folder: Path) -> EmbeddingFacts:
    """Read _embeddings.json.

    Raises:
        DataError: the file is missing, broken, damaged, or of another version.
    """
    file = folder / FACTS
    try:
        content = read_document(file)
        require_kinds(content, _OF_FACTS, {"seal": TEXT})
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has schema {content['schema']}; this version reads {SCHEMA}")
        said = content.pop("seal", None)
        if said is not None and said != (found := seal_of(content)):
            raise ValueError(f"its digest is {found[:16]}, and it says {said[:16]}")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be used: {first_line(error)}. Embed the images again.") from error
    del content["schema"]
    return EmbeddingFacts(**{name: content[name] for name in EmbeddingFacts.__dataclass_fields__})


def write_part(
    folder: Path,
    part: int,
    facts: EmbeddingFacts,
    ids: Sequence[str],
    vectors: np.ndarray,
    labels: Sequence[str] | None,
    unreadable: Sequence[tuple[str, str]],
) -> None:
    """Write a part, whole or not at all.

    Args:
        folder: folder of the parts.
        part: number of the part, from 0.
        facts: facts of all parts.
        ids: ids of the images.
        vectors: float32 ``(N, D)``.
        labels: the class of each image, or None if unknown.
        unreadable: id and reason of each image of the part that has no row.
    """
    import pyarrow
    from pyarrow import parquet

    values = pyarrow.array(np.ascontiguousarray(vectors, dtype=facts.dtype).reshape(-1))
    columns: dict[str, Any] = {
        "id": pyarrow.array([printable(name) for name in ids], pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(values, facts.dim),
    }
    if labels is not None:
        columns["label"] = pyarrow.array(labels, pyarrow.string())
    said = {**asdict(facts), "part": part, "unreadable": [[printable(text) for text in each] for each in unreadable]}
    table = pyarrow.table(columns).replace_schema_metadata(
        {METADATA_KEY: json.dumps(said).encode()}
        | {name.encode(): str(getattr(facts, name)).encode() for name in ("model_digest", "metric", "dim")}
    )
    with replacing(part_file(folder, part)) as temporary:
        parquet.write_table(table, temporary, compression="none", use_dictionary=False, write_page_checksum=True)


@dataclass(frozen=True, eq=False)
class Part:
    """The content of a part.

    Attributes:
        ids: ids of its images.
        vectors: float32 ``(N, D)``.
        labels: the class of each image, or None.
        unreadable: id and reason of each image that has no row.
    """

    ids: list[str]
    vectors: np.ndarray
    labels: list[str] | None
    unreadable: list[tuple[str, str]]


def read_part(folder: Path, part: int, facts: EmbeddingFacts) -> Part:
    """Read a part.

    Raises:
        DataError: it is missing, broken, damaged, or does not belong to this _embeddings.json.
        MissingExtraError: pyarrow is not installed.
    """
    if not is_installed("pyarrow"):
        raise missing(str(folder), "pyarrow")
    import pyarrow
    from pyarrow import parquet

    file = part_file(folder, part)
    try:
        unreadable = _require_fitting(parquet.read_schema(file).metadata, part, facts)
        _require_room(file, facts)
        table = parquet.read_table(file, page_checksum_verification=True, partitioning=None)
        vector = table.schema.field("vector").type
        if not pyarrow.types.is_fixed_size_list(vector) or vector.list_size != facts.dim:
            raise ValueError(f"its vectors are {vector}; they must have {facts.dim} dimensions")
        ids = table.column("id").to_pylist()
        values = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = values.astype(np.float32).reshape(len(ids), facts.dim)
        if not np.isfinite(vectors).all():
            raise ValueError("it has vectors that are not finite")
        labels = table.column("label").to_pylist() if "label" in table.column_names else None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be used: {first_line(error)}. Remove it and embed again.") from error
    return Part([str(name) for name in ids], vectors, labels, unreadable)


def read_unreadable(folder: Path, part: int, facts: EmbeddingFacts) -> list[tuple[str, str]]:
    """Return id and reason of the images that have no row in a part.

    Raises:
        DataError: the part is missing, broken, or does not belong to these facts.
    """
    import pyarrow
    from pyarrow import parquet

    file = part_file(folder, part)
    try:
        return _require_fitting(parquet.read_schema(file).metadata, part, facts)
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be used: {first_line(error)}. Remove it and embed again.") from error


def _require_room(file: Path, facts: EmbeddingFacts) -> None:
    """Raise a ValueError if a part claims more rows than a file of its size can hold."""
    from pyarrow import parquet

    rows, size = parquet.read_metadata(file).num_rows, file.stat().st_size
    if rows * _row_size(facts) > size:
        raise ValueError(f"it says {rows} rows of {facts.dim} dimensions, in {size} bytes")


def _row_size(facts: EmbeddingFacts) -> int:
    """Return the bytes of a row's vector, which is stored uncompressed."""
    return facts.dim * np.dtype(facts.dtype).itemsize


def _require_fitting(metadata: dict[bytes, bytes] | None, part: int, facts: EmbeddingFacts) -> list[tuple[str, str]]:
    """Return a part's unreadable images; raise a ValueError if the part does not belong to ``facts``."""
    said = parsed((metadata or {})[METADATA_KEY].decode())
    require_kinds({"its metadata": said}, {"its metadata": MAPPING})
    for name, value in ({**asdict(facts), "part": part}).items():
        if said.get(name) != value:
            raise ValueError(f"it has {name} {said.get(name)!r}, and {FACTS} says {value!r}")
    require_kinds(said, {"unreadable": _UNREADABLE})
    return [(name, reason) for name, reason in said["unreadable"]]


def read_embeddings(folder: Path) -> tuple[EmbeddingFacts, Part]:
    """Read all embeddings of a folder.

    Raises:
        DataError: a part is missing, broken, damaged, or does not belong to the folder.
        MissingExtraError: pyarrow is not installed.
    """
    facts = read_facts(folder)
    first_absent = next((part for part in range(facts.parts) if not part_file(folder, part).is_file()), None)
    if first_absent is not None:
        there = len(list(folder.glob("part-*.parquet")))
        raise DataError(
            f"{folder} lacks {max(facts.parts - there, 1)} of its {facts.parts} parts, such as "
            f"{part_file(folder, first_absent).name}. Repeat the embed command that wrote it."
        )
    size = sum(part_file(folder, part).stat().st_size for part in range(facts.parts))
    vectors = np.empty((min(facts.images, size // _row_size(facts)), facts.dim), np.float32)
    ids: list[str] = []
    labels: list[str] = []
    unreadable: list[tuple[str, str]] = []
    for number in range(facts.parts):
        part = read_part(folder, number, facts)
        if len(ids) + len(part.ids) > facts.images:
            raise DataError(f"{folder} has more rows than the {facts.images} images that {FACTS} says.")
        vectors[len(ids) : len(ids) + len(part.ids)] = part.vectors
        ids += part.ids
        labels += part.labels or []
        unreadable += part.unreadable
    return facts, Part(ids, vectors[: len(ids)], labels if len(labels) == len(ids) else None, unreadable)
