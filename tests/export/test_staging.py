"""Folders appear whole, whatever happens to the process that writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.staging import is_unfinished, staged
from zoo.errors import OptionError
from zoo.files import alone_in


def write(out: Path, text: str) -> None:
    with staged(out, "last", ["a", "last"]) as stage:
        (stage / "a").mkdir()
        (stage / "a" / "1").write_text(text)
        (stage / "last").write_text(text)


def content(out: Path) -> dict[str, str]:
    return {file.relative_to(out).as_posix(): file.read_text() for file in out.rglob("*") if file.is_file()}


def test_what_is_there_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write(out, "one")
    (out / "a" / "2").write_text("of the first")
    (out / "mine").write_text("kept")
    write(out, "two")
    assert content(out) == {"a/1": "two", "last": "two", "mine": "kept"}
    with staged(out, "last", ["a", "mine"]) as stage:
        (stage / "last").write_text("three")
    assert content(out) == {"last": "three"} and [entry.name for entry in out.iterdir()] == ["last"]


def test_an_error_leaves_all_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")
    for name, there in (("out", {"a/1": "one", "last": "one"}), ("none", None)):
        with pytest.raises(ZeroDivisionError), staged(tmp_path / name, "last", []) as stage:
            (stage / "last").write_text(str(1 // 0))
        assert (content(tmp_path / name) if there else (tmp_path / name).exists() or None) == there


def test_what_a_killed_process_left_is_known_and_removed(tmp_path: Path) -> None:
    write(tmp_path, "one")
    (tmp_path / "last").unlink()  # killed while files moved
    (tmp_path / ".stage.x").mkdir()
    (tmp_path / ".stage.x" / "last").write_text("large")
    assert is_unfinished(tmp_path)
    with pytest.raises(ZeroDivisionError), staged(tmp_path, "last", []):
        assert not (tmp_path / ".stage.x" / "last").exists()
        raise ZeroDivisionError
    assert is_unfinished(tmp_path)  # whose the rest is is still known
    write(tmp_path, "two")
    assert content(tmp_path) == {"a/1": "two", "last": "two"} and not is_unfinished(tmp_path)
    (tmp_path / "new").mkdir()
    assert not is_unfinished(tmp_path / "new") and not is_unfinished(tmp_path / "none")
    (tmp_path / "new" / ".lock").touch()  # killed before anything was written
    assert is_unfinished(tmp_path / "new")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"), pytest.raises(OptionError, match="Another process"):
        write(tmp_path / "out", "x")
