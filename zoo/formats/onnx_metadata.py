"""The metadata of an ONNX file that ``export`` made, read with types; see docs/formats.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ModelError, OptionError, first_line, shown
from zoo.formats.documents import FLAG, TEXT, list_of, one_of, parsed, require_kinds, whole
from zoo.formats.preprocessing import Preprocessing

SCHEMA = "1"
_LARGEST = 10**15


@dataclass(frozen=True)
class OnnxMetadata:
    """The metadata of an exported file.

    Attributes:
        dim: dimensions of the embedding.
        metric: "cosine" or "euclidean".
        precision: "fp32", "fp16" or "int8".
        preprocessing: how pixels become the network's input.
        parameters: number of parameters of the network; None if unknown.
        one_by_one: whether a batch must be run one image at a time, because ranges are computed in each run.
        architecture: timm's name; None if unknown.
        data: name and protocol of the training data; empty if unknown.
        teacher: name and digest of the teacher; empty if it had none.
    """

    dim: int
    metric: str
    precision: str
    preprocessing: Preprocessing
    parameters: int | None
    one_by_one: bool
    architecture: str | None
    data: dict[str, Any]
    teacher: dict[str, Any]


def read_metadata(path: str | Path, entries: Mapping[str, str]) -> OnnxMetadata:
    """Read the metadata of an exported file.

    Args:
        path: path of the file, for messages.
        entries: its metadata, text by key.

    Raises:
        ModelError: an entry is missing, of another type, or out of range; names it.
    """
    try:
        known = {"metric": one_of("cosine", "euclidean"), "precision": one_of("fp32", "fp16", "int8")}
        require_kinds(entries, {"dim": TEXT, **known, "preprocessing": TEXT})
        quantization = _document(entries, "quantization")
        require_kinds(quantization, {}, {"kind": TEXT})
        return OnnxMetadata(
            dim=_whole(entries, "dim"),
            metric=entries["metric"],
            precision=entries["precision"],
            preprocessing=preprocessing_in(entries),
            parameters=_whole(entries, "parameters") if "parameters" in entries else None,
            # Dynamic ranges are computed over the whole batch, so an embedding would depend on other images.
            one_by_one=quantization.get("kind") == "dynamic",
            architecture=entries.get("architecture"),
            data=_document(entries, "data"),
            teacher=_document(entries, "teacher"),
        )
    except (ValueError, OptionError) as error:
        raise ModelError(f"The metadata of {path} are broken ({first_line(error)}). Export it again.") from error


def preprocessing_in(entries: Mapping[str, str]) -> Preprocessing:
    """Return the preprocessing in the metadata.

    Raises:
        ValueError: it is not a JSON object, or has no input size.
        OptionError: its values cannot work.
    """
    said = _document(entries, "preprocessing")
    require_kinds(said, {"input_size": list_of(whole(1), 3)}, {"inside": FLAG})
    return Preprocessing.of(said)


def _document(entries: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        content = parsed(entries.get(key, "{}"))
    except ValueError as error:
        raise ValueError(f"{key} is not valid JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{key} is {shown(content)}; it must be an object")
    return content


def _whole(entries: Mapping[str, str], key: str) -> int:
    """Parse a whole number that is written as text."""
    text = entries[key]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= _LARGEST and len(text) < 20):
        raise ValueError(f"{key} is {shown(text)}; it must be a whole number of at least 1")
    return int(text)
