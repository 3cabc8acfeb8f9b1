"""The metadata of a ``.tflite`` file that ``export`` made: a JSON file in a zip archive appended to the model.

LiteRT ignores what follows the model; MediaPipe keeps a model's associated files there too. Needs the standard library
only.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from zoo.errors import ModelError, first_line
from zoo.formats.documents import parsed
from zoo.formats.onnx_content import DIGEST_KEY
from zoo.formats.onnx_metadata import SCHEMA

FACTS = "embedding_compressor.json"


def with_facts(model: bytes, entries: Mapping[str, str]) -> bytes:
    """Return a model with its metadata and a digest of both appended.

    Args:
        model: the model without metadata.
        entries: metadata, as in an ONNX file; see docs/formats.md.
    """
    sealed = dict(entries) | {DIGEST_KEY: _digest(model, entries)}
    archive = io.BytesIO(model)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as opened:
        # ZipInfo has a fixed date, so the same model gives the same file.
        opened.writestr(zipfile.ZipInfo(FACTS), json.dumps(sealed, sort_keys=True))
    return archive.getvalue()


def facts_in(path: Path) -> dict[str, str] | None:
    """Return a file's metadata, or None if another program made it.

    Raises:
        ModelError: the file was changed after it was written, or its metadata cannot be read.
    """
    content = path.read_bytes()
    if FACTS.encode() not in content:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entry = archive.getinfo(FACTS)
            if entry.file_size > 1 << 20:
                raise ValueError(f"it has {entry.file_size} bytes")
            model, said = content[: min(each.header_offset for each in archive.infolist())], archive.read(entry)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{FACTS} in {path} cannot be read ({first_line(error)}). Export it again.") from error
    try:
        entries = parsed(said.decode("utf-8"))
    except ValueError as error:
        raise ModelError(f"{FACTS} in {path} is not valid JSON ({first_line(error)}). Export it again.") from error
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise ModelError(f"{FACTS} in {path} must be texts by name. Export it again.")
    if entries.get("schema") != SCHEMA or entries.pop(DIGEST_KEY, None) != _digest(model, entries):
        raise ModelError(f"{path} has changed since export wrote it. Copy or export it again.")
    return entries


def _digest(model: bytes, entries: Mapping[str, str]) -> str:
    hashed = hashlib.sha256(model)
    hashed.update(json.dumps(dict(entries), sort_keys=True).encode())
    return hashed.hexdigest()
