from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.cli.command import main
from compressor.cli.manners import Manners, manners_in
from compressor.cli.printing import show_json
from export.report.validation import Report
from export.shipping import Exported

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_onnx(tmp_path / "model.onnx")


def test_manners_stand_anywhere() -> None:
    words = ["--quiet", "bench", "a.onnx", "--threads", "1", "--log-file", "x.log", "2", "--json", "--runs=3"]
    manners, others = manners_in(words)
    assert manners == Manners(json=True, quiet=True, log_file=Path("x.log"))
    assert others == ["bench", "a.onnx", "--threads", "1", "2", "--runs=3"]
    assert manners_in(["--log_file=a-b.log"]) == (Manners(log_file=Path("a-b.log")), [])


def test_every_verb_of_the_device_prints_json(model: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    def document(*words: object) -> Any:
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    image = photos / "class01" / "2.png"
    assert document("embed", model, photos, tmp_path / "v.npz") == {"path": str(tmp_path / "v.npz")}
    assert document("inspect", model)["dim"] == "8"
    bench = document("bench", model, "--runs", 1, "--threads", 1, "--batch_sizes", 1)
    assert [row["batch"] for row in bench["rows"]] == [1]
    assert document("index", "build", model, photos, tmp_path / "index") == {"path": str(tmp_path / "index")}
    (found,) = document("index", "search", tmp_path / "index", image, "--k", 1)
    assert found["query"] == str(image) and found["hits"][0]["id"] == "class01/2.png"


def test_reports_and_exports_as_json(tmp_path: Path, capsys: Any) -> None:
    show_json(Report(tmp_path, {"stages": [], "gate": {"passed": True}}, True))
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path), "stages": [], "gate": {"passed": True}}
    show_json(Exported({"fp32": tmp_path / "m.onnx"}))
    assert json.loads(capsys.readouterr().out) == {"files": {"fp32": str(tmp_path / "m.onnx")}, "candidates": None}


def test_quiet_leaves_the_result_and_errors(model: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["embed", str(model), str(photos), str(tmp_path / "v.npz")]
    assert main(words) == 0
    assert capsys.readouterr() == (f"Done: {tmp_path / 'v.npz'}\n", f"{tmp_path / 'v.npz'}: 96 images, 8 dimensions\n")
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == (f"Done: {tmp_path / 'v.npz'}\n", "")
    assert main(["embed", "none.onnx", *words[2:], "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("error: none.onnx does not exist")


def test_verbose_shows_where_an_error_comes_from(capsys: Any) -> None:
    assert main(["inspect", "none.onnx", "--verbose"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1].startswith("error: none.onnx")


def test_a_log_file_keeps_all_that_is_said(model: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "logs" / "a.log"
    words = ["embed", str(model), str(photos), str(tmp_path / "v.npz"), "--quiet", "--log_file", str(file)]
    assert main(words) == 0
    assert main(["inspect", "none.onnx", f"--log-file={file}"]) == 1
    said = [line.split(" ", 2)[2] for line in file.read_text().splitlines()]
    assert said[0].startswith(f"INFO compressor.cli.command: compressor embed {model}")
    assert said[1].endswith("96 images, 8 dimensions")
    assert said[-1].startswith("ERROR compressor.cli.manners: error: none.onnx does not exist")


def test_names_of_files_give_no_commands_to_the_terminal(
    model: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    strange = "a\x1b[31m\tb\nc.png"
    for label in ("one\x1b]0;title\x07", "two\u202e"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / strange).write_bytes((photos / "class00" / "0.png").read_bytes())
    (tmp_path / "data" / "two\u202e" / "broken\x1b.png").write_bytes(b"no image")
    data, log = str(tmp_path / "data"), tmp_path / "a.log"
    assert main(["index", "build", str(model), data, str(tmp_path / "index"), "--log_file", str(log)]) == 0
    assert main(["check", data]) in (0, 3)
    assert main(["train", data, "--out", str(tmp_path / "t")]) == 1  # it says which classes there are
    said = capsys.readouterr()
    assert main(["index", "search", str(tmp_path / "index"), f"{data}/two\u202e/{strange}", "--k", "2"]) == 0
    found = capsys.readouterr().out
    assert [len(line.split("\t")) for line in found.splitlines()] == [4, 4]  # query, rank, id and score
    assert "a\\x1b[31m\\tb\\nc.png" in found
    assert "\\u202e" in said.err and "broken\\x1b.png" in log.read_text()
    for text in (said.out, said.err, found, log.read_text()):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_metadata_give_no_commands_to_the_terminal(tiny_onnx: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    file = tiny_onnx(tmp_path / "a.onnx", architecture="tiny\x1b]0;title\x07")
    assert main(["inspect", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "tiny\\x1b]0;title\\x07" in printed and "\x1b" not in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_standard_output_is_named(model: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "compressor", "inspect", str(model)]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: No space left on device.")


def test_logging_is_as_before_afterwards(model: Path, capsys: Any) -> None:
    before = [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in ("", "zoo", "export")]
    assert main(["inspect", str(model), "--verbose"]) == 0
    assert before == [
        (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in ("", "zoo", "export")
    ]


def test_on_a_terminal_an_error_begins_a_line(tmp_path: Path) -> None:
    script = (
        "import sys; from compressor.cli import command\n"
        "from tqdm import tqdm\n"
        "from zoo.errors import DataError\n"
        "def fail(*given):\n"
        "    bar = tqdm(total=3, desc='training', ncols=60, nrows=9); bar.update()\n"
        "    raise DataError('image broken.png')\n"
        "command._carry_out = fail\n"
        "sys.exit(command.main(['inspect', 'a.onnx']))\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], stderr=theirs, env=environment, check=False)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 10000):
            said += part
    os.close(ours)
    assert done.returncode == 1
    assert b"training" in said and said.endswith(b"\r\nerror: image broken.png\r\n")


def test_where_there_is_no_terminal_there_are_no_bars(model: Path, photos: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compressor", "embed", str(model), str(photos), str(tmp_path / "v.npz")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == f"{tmp_path / 'v.npz'}: 96 images, 8 dimensions\n"
    assert np.load(tmp_path / "v.npz")["embeddings"].shape == (96, 8)
