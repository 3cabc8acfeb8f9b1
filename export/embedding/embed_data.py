"""Embed images and write the embeddings to files: :func:`embed_data`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.arguments import DataLike, require_valid
from zoo.errors import OptionError, require_known
from zoo.extras import is_installed, missing, require_extra
from zoo.files import replacing, require_writable, write_json
from zoo.formats.embedding_parts import DTYPES, EmbeddingFacts, short_name
from zoo.paths import given_path

if TYPE_CHECKING:
    from zoo.data import ImageSet

log = logging.getLogger(__name__)

LOCAL, RAY = ENGINES = ("local", "ray")


def embed_data(
    model: str | Path,
    source: DataLike,
    out: str | Path,
    *,
    columns: dict[str, str] | None = None,
    rows_per_part: int = 10_000,
    dtype: str = "float32",
    shard: str = "1/1",
    max_unreadable: int = 10,
    engine: str = "local",
    processes: int | None = None,
) -> Path:
    """Embed images, and write their ids and embeddings to a file, or to a folder of Parquet files.

    A folder is written part by part, each whole or not at all. Run the same command again to continue after an
    interruption. Several processes or machines can share the work by ``shard``.

    Args:
        model: the encoder: an .onnx file, a model folder, or a name such as hf:NAME; see
            docs/how-to/own-teacher.md.
        source: the images: a file, a folder at any depth, or data of any kind, such as csv:FILE (all parts of it); in
            Python also a list, a frame or a data set.
        out: an .npz file with the arrays ids and embeddings, which distill and validate take as a teacher; or an .npy
            file with the embeddings alone, next to an .ids.json file with the ids in the same order; or a folder for
            Parquet files with id, vector and, where known, label, which distill, validate and index build take.
        columns: names of a table's columns, such as {path: file}; see docs/data.md.
        rows_per_part: images in each file of a folder.
        dtype: data type of the vectors in a folder: float32 or float16.
        shard: which parts of a folder to write: i/n for every n-th, starting with the i-th.
        max_unreadable: unreadable images that are reported, left out, and listed in a folder's _unreadable.tsv; one
            more stops the command.
        engine: what embeds into a folder: local for this process, ray for the processes of a Ray cluster (the one at
            RAY_ADDRESS, or else this machine); see docs/how-to/cluster.md.
        processes: processes of engine ray; null for one per GPU if the model uses GPUs, else one per core.

    Returns:
        The file or folder.

    Raises:
        UserError: the model, the images or an option is unusable.
    """
    from export.index.gallery import open_encoder
    from zoo.data import load_images

    require_valid({"max_unreadable": max_unreadable, "rows_per_part": rows_per_part, "processes": processes})
    require_known("dtype", dtype, DTYPES)
    require_known("engine", engine, ENGINES)
    mine = _shard_of(shard)
    out = given_path(out)
    in_parts = out.suffix not in (".npz", ".npy")
    if out.suffix and in_parts and not out.is_dir():
        raise OptionError(f"{out} ends in neither .npz nor .npy, nor is it the name of a folder. Give such a name.")
    if not in_parts and (mine, dtype, engine) != ((1, 1), "float32", LOCAL):
        raise OptionError(
            f"shard, dtype and engine are for folders of Parquet files, and {out} is one file. Name a folder."
        )
    if engine == LOCAL and processes is not None:
        raise OptionError(
            f"processes is {processes}, and engine {LOCAL} is one process. Give engine ray, or leave it out."
        )
    require_writable(out if in_parts else out.parent)
    if in_parts and not is_installed("pyarrow"):
        raise missing(f"The folder {out} of Parquet files", "pyarrow")
    if engine == RAY:
        require_extra("ray", f"Engine {RAY}")
    encoder = open_encoder(model)
    images = _alone(source) or load_images(source, columns, labelled=in_parts)
    if in_parts:
        from export.embedding.shard import Shard

        facts = EmbeddingFacts(
            model=short_name(str(encoder.facts["source"])),
            model_digest=encoder.facts["digest"],
            metric=encoder.metric,
            dim=encoder.dim,
            dtype=dtype,
            images_digest=images.digest,
            images=len(images),
            rows_per_part=rows_per_part,
        )
        work = Shard(out, facts, mine, max_unreadable)
        if engine == RAY:
            from export.embedding.on_ray import embed_on_ray

            embed_on_ray(model, images, work, processes)
        else:
            from export.embedding.parts import embed_parts

            embed_parts(encoder, images, work)
        log.info("%s: %d images in %d parts, %d dimensions", out, len(images), facts.parts, encoder.dim)
        return out
    images = images.checked(max_unreadable)
    embeddings = encoder.embed(images)

    import numpy as np

    if out.suffix == ".npy":
        out.unlink(missing_ok=True)  # else a kill between the two writes would pair old vectors with new ids
        write_json(out.with_suffix(".ids.json"), list(images.ids))
    with replacing(out) as temporary:
        if out.suffix == ".npy":
            np.save(temporary, embeddings)
        else:
            np.savez(temporary, ids=np.array(images.ids), embeddings=embeddings)
    log.info("%s: %d images, %d dimensions", out, len(images), encoder.dim)
    return out


def _shard_of(text: str) -> tuple[int, int]:
    """Parse "i/n" as (i, n)."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(text))
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"shard is {text}; it must be i/n with i in 1..n, such as 1/4.")
    return int(found[1]), int(found[2])


def _alone(source: DataLike) -> ImageSet | None:
    """Return a set of one image if ``source`` is the path of an image file, else None."""
    from zoo.data import ImageSet
    from zoo.data.sources.addresses import is_address
    from zoo.images import IMAGE_SUFFIXES

    if not isinstance(source, str | Path) or is_address(str(source)):
        return None
    file = given_path(source)
    return ImageSet([file.name], [file]) if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir() else None
