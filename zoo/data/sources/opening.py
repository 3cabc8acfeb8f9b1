"""Open any data, by kind and path or as a Python object, as a :class:`zoo.data.division.splits.Source`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.division.splits import Reader, Source
from zoo.data.image_set import ImageSet
from zoo.data.sources.addresses import is_address
from zoo.errors import DataError, OptionError, did_you_mean, shown
from zoo.paths import expanded, given_path, is_there

log = logging.getLogger(__name__)

# kind -> module and function that reads it, imported on demand
READERS: dict[str, str] = {
    "glyphs": "zoo.data.glyphs:read_glyphs",
    "folder": "zoo.data.folder:read_folder",
    "csv": "zoo.data.table:read_csv",
    "tsv": "zoo.data.table:read_tsv",
    "jsonl": "zoo.data.sources.json_lines:read_json_lines",
    "parquet": "zoo.data.sources.parquet:read_parquet",
    "shards": "zoo.data.sources.shards:read_shards",
    "omniglot": "zoo.data.torchvision_sets:read_omniglot",
    "cifar100": "zoo.data.torchvision_sets:read_cifar100",
    "cub200": "zoo.data.published.cub200:read_cub200",
    "cars196": "zoo.data.published.cars196:read_cars196",
    "sop": "zoo.data.published.sop:read_sop",
    "inshop": "zoo.data.published.inshop:read_inshop",
    "grocery": "zoo.data.published.grocery:read_grocery",
    "grocery-catalogue": "zoo.data.published.grocery:read_grocery_catalogue",
}
# the whole names, because users call packages of their own datasets, too
_HUGGING_FACE = {"datasets.arrow_dataset", "datasets.iterable_dataset"}
# suffix of a bare path -> kind
_ENDINGS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_ENDINGS |= {".pq": "parquet", ".tar": "shards"}


def open_source(data: Any, columns: Mapping[str, str] | None = None) -> Source:
    """Read any data, without splitting it.

    Args:
        data: text or a path as :func:`zoo.data.load_data` takes it; a list of images, or a tuple of images and labels;
            a torch or Hugging Face data set; a pandas or polars frame; a mapping of parts, such as train and test, to
            any of these; or the result of :func:`zoo.data.from_images` or a reader.
        columns: the data's names of our columns (path, label, split ...).

    Raises:
        DataError: the data are missing, broken or of an unknown kind.
        OptionError: columns are given for data without columns.
    """
    if columns is not None and (
        not isinstance(columns, Mapping) or not all(isinstance(name, str) for pair in columns.items() for name in pair)
    ):
        raise OptionError(f"columns is {shown(columns)}; it must give names, such as {{path: file, label: sku}}.")
    if isinstance(data, str | Path):
        return _opened(str(data), columns)
    if isinstance(data, Mapping):
        from zoo.data.sources.parts import joined

        if not data:
            raise DataError("The data have no parts. Give train and test, for example.")
        opened = {str(part): open_source(value, columns) for part, value in data.items()}
        return joined(next(iter(opened.values())).name, opened)
    modules = {parent.__module__ for parent in type(data).__mro__}
    library = {module.partition(".")[0] for module in modules}
    if modules & _HUGGING_FACE:
        from zoo.data.sources.hugging_face import read_dataset

        return read_dataset(data, columns)
    if library & {"pandas", "polars", "pyarrow"}:
        from zoo.data.rows import values_of
        from zoo.data.sources.frame import is_frame, read_frame

        if is_frame(data):
            return read_frame(data, columns)
        data = values_of(data)
    if columns:
        raise OptionError(f"columns names columns, and data of type {type(data).__name__} have none. Leave it out.")
    return _without_columns(data)


def kind_and_path(data: str) -> tuple[str, str]:
    """Return the kind of data that a text names, and its path, with ``~`` expanded."""
    kind, colon, path = data.partition(":")
    if kind not in READERS or (is_address(data) and path.startswith("//")):
        if colon and not is_address(data) and "/" not in kind and "." not in kind and len(kind) > 1:
            known = ", ".join(READERS)
            raise DataError(f"Unknown kind of data {kind!r}; known are {known}.{did_you_mean(kind, READERS)}")
        kind, path = _kind_of(data), data
    elif not colon and is_there(expanded(kind)):
        if kind != "glyphs":
            raise DataError(f"{kind} is a kind of data and a folder here. Write {kind}:./{kind}, or folder:{kind}.")
        log.warning("glyphs means the built-in glyphs, not the folder of that name. Write ./glyphs for the folder.")
    if kind != "glyphs" and not path:
        raise DataError(f"Data {data!r} names no path; write {kind}:PATH.")
    if is_address(path):
        if not has_columns(kind):
            raise DataError(
                f"{path} is read as a table (.csv, .tsv, .jsonl or .parquet) or as shards (.tar) only, not as {kind}. "
                "Copy it to this machine, or write such a table."
            )
        return kind, path
    return kind, str(given_path(path)) if path else path


def has_columns(kind: str) -> bool:
    """Return whether data of a kind are tables with columns that can be named."""
    return "columns" in signature(reader_of(kind)).parameters


def reader_of(kind: str) -> Reader:
    """Return the function that reads a kind of data."""
    module, function = READERS[kind].split(":")
    reader: Reader = getattr(import_module(module), function)
    return reader


def _opened(data: str, columns: Mapping[str, str] | None) -> Source:
    kind, path = kind_and_path(data)
    if not columns:
        return reader_of(kind)(path)
    if not has_columns(kind):
        raise OptionError(f"columns names columns, and data of kind {kind} have none. Leave it out.")
    return reader_of(kind)(path, columns=columns)  # type: ignore[call-arg]


def _kind_of(path: str) -> str:
    name = (path.partition("?")[0] if is_address(path) else path).lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise DataError(f"{path} is compressed, so its images cannot be read one by one. Decompress it to a .tar.")
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), "folder")


def _without_columns(data: Any) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, ImageSet):
        return Source(data)

    from zoo.data.sources.from_images import from_images

    if isinstance(data, tuple):
        if len(data) != 2 or isinstance(data[1], str | Path):
            raise DataError(f"Data are a tuple of {len(data)}; a tuple is (images, labels). Give a list of images.")
        return from_images(*data)
    if isinstance(data, np.ndarray) or (isinstance(data, Sequence) and not isinstance(data, bytes)):
        return from_images(data)
    if hasattr(data, "__next__"):
        raise DataError(f"Data of type {type(data).__name__} can be read only once. Make it a list: list(...).")
    if hasattr(data, "__getitem__") or hasattr(data, "__iter__"):
        from zoo.data.sources.torch_dataset import read_torch_dataset

        return read_torch_dataset(data)
    raise DataError(
        f"Data of type {type(data).__name__} are not known. Give a path, a list of images, (images, labels), a frame "
        "or a data set; see docs/how-to/bring-your-data.md."
    )
