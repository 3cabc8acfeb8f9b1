"""Facts appended to the model in a .tflite file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from zoo import ModelError
from zoo.formats.tflite_file import FACTS, facts_in, with_facts

MODEL = b"\x1c\x00\x00\x00TFL3" + bytes(range(256))
ENTRIES = {"schema": "1", "dim": "8", "metric": "cosine"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(with_facts(MODEL, ENTRIES))
    return path


def test_entries_are_read_again_and_the_model_stays_as_it_was(file: Path) -> None:
    assert facts_in(file) == ENTRIES
    assert file.read_bytes().startswith(MODEL) and file.read_bytes() == with_facts(MODEL, ENTRIES)
    with zipfile.ZipFile(file) as archive:  # as MediaPipe reads files that belong to a model
        assert archive.namelist() == [FACTS] and json.loads(archive.read(FACTS))["dim"] == "8"


def test_a_file_of_another_make_says_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(MODEL)
    assert facts_in(other) is None
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("labels.txt", "one")
    assert facts_in(other) is None


@pytest.mark.parametrize(("old", "new"), [(bytes(range(9)), bytes(9)), (b"cosine", b"cosina")])
def test_a_changed_file_is_refused(old: bytes, new: bytes, file: Path) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    with pytest.raises(ModelError, match=r"has changed since export wrote it|cannot be read"):
        facts_in(file)


def test_a_file_that_was_cut_off_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ModelError, match=r"cannot be read .* Export it again"):
        facts_in(file)


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"schema": 1}', "\ud800"])
def test_entries_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(MODEL)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=FACTS):
        facts_in(path)
