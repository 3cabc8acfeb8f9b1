"""What a ``.tflite`` file that ``export`` made says of itself: a JSON file in the zip archive that follows the model.

LiteRT ignores what follows the model; MediaPipe keeps files that go with a model there too. Needs the standard library
alone.
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
    """Return a model with what it says of itself behind it, and a digest of both.

    Args:
        model: the model alone.
        entries: as in the metadata of an ONNX file; see docs/formats.md.
    """
    sealed = dict(entries) | {DIGEST_KEY: _digest(model, entries)}
    archive = io.BytesIO(model)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as opened:
        # A fixed date: the same model gives the same file.
        opened.writestr(zipfile.ZipInfo(FACTS), json.dumps(sealed, sort_keys=True))
    return archive.getvalue()


def facts_in(path: Path) -> dict[str, str] | None:
    """Return what a file says of itself; None where another program made it.

    Raises:
        ModelError: it was changed since it was written.
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
