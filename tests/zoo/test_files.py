"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import OptionError
from zoo.files import (
    alone_in,
    digest,
    remove_left_over,
    replacing,
    require_writable,
    scratch_array,
    write_json,
    write_text,
)


def test_a_block_that_succeeds_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            assert (temporary.parent, temporary.suffix) == (path.parent, ".csv")
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise error
        assert path.read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "ours", "x")
        (tmp_path / "plain").write_text("x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(previous)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes == [0o640, 0o640]


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    value = {"name": "Straße 東京 ✓", "recall": 0.1 + 0.2, "none": None, "list": [1, True, "a\nb"], "nested": {"x": {}}}
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert path.read_bytes().isascii()
    write_json(path, value | {"name": "not Unicode: \udcff"})  # as Python reads such a file name
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "not Unicode: \udcff"
    write_json(path, value)
    with pytest.raises(TypeError):
        write_json(path, {"array": np.zeros(2)})
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_names_that_are_not_unicode_are_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "card.md", os.fsdecode(b"fot\xf3s \xc3\xa9"))
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == "fot\\udcf3s é"


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # the first test vector of FIPS 180-2
    assert digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = np.random.default_rng(0).bytes(3_000_001)
    path.write_bytes(large)
    assert digest(str(path)) == hashlib.sha256(large).hexdigest()


def test_a_folder_has_one_process_at_work(tmp_path: Path) -> None:
    code = f"from zoo.files import alone_in\nwith alone_in({str(tmp_path)!r}): print('in', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(OptionError, match=f"Another process is working in {tmp_path}"), alone_in(tmp_path):
            pass
        other.kill()  # a process that is killed leaves nothing locked
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone_in(tmp_path):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [None, AttributeError, OSError(errno.EOPNOTSUPP, "not here")])
def test_a_scratch_array_has_its_space_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Exception | None
) -> None:
    def refusing(*args: int) -> None:
        assert missing is not None
        raise missing

    if missing is not None:
        monkeypatch.setattr(os, "posix_fallocate", refusing)
    array = scratch_array(tmp_path / "a", (3, 2, 65537))
    assert (tmp_path / "a").stat().st_blocks * 512 >= 4 * 3 * 2 * 65537  # no hole that has still to be filled
    assert array.shape == (3, 2, 65537) and array.dtype == np.float32 and not array.any()
    array[2, 1] = np.arange(65537)
    array.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a", np.float32)[-65537:], np.arange(65537))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_scratch_array_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*args: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OptionError, match=rf"{tmp_path} has no room for 12288 bytes .* Set TMPDIR to a folder") as said:
        scratch_array(tmp_path / "a", (1024, 3))
    assert len(str(said.value).splitlines()) == 1
    assert not (tmp_path / "a").exists()


LEAVES = """
import os, signal, sys
from zoo.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    mine = tmp_path / ".notes.part.txt"
    mine.write_text("the user's own")
    command = [sys.executable, "-c", LEAVES, str(tmp_path / "model.onnx")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as writing:
        assert writing.stdin and writing.stdout
        writing.stdout.readline()
        remove_left_over(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2  # it is alive
        writing.stdin.close()
    assert writing.returncode == -9 and len(list(tmp_path.iterdir())) == 2
    require_writable(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def limited(write: Callable[[Path], object], path: Path) -> OSError:
    """Return the error of writing a file where none may grow beyond 64 KB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError) as error, replacing(path) as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return error.value


MEGABYTE = torch.zeros(1 << 18)
WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda file: torch.save({"a": MEGABYTE}, file),
    "safetensors": lambda file: save_file({"a": MEGABYTE}, file),
    "numpy": lambda file: np.save(file, MEGABYTE.numpy()),
    "plain": lambda file: file.write_bytes(MEGABYTE.numpy().tobytes()),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_may_not_grow_is_named_whoever_writes_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.npy"
    error = limited(WRITERS[kind], path)
    assert (error.errno, error.filename, error.strerror) == (errno.EFBIG, str(path), "File too large")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for raised in (
        RuntimeError("a bug"),
        OptionError("an option"),
        FileNotFoundError(2, "none", "x"),
        OSError(5, "I/O"),
    ):
        with pytest.raises(type(raised)) as error, replacing(tmp_path / "file"):
            raise raised
        assert error.value is raised


def test_a_read_only_folder_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("zoo.files.FileLock.acquire", refuse)
    with alone_in(tmp_path):
        assert list(tmp_path.iterdir()) == []
