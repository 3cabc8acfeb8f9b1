from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import export.benchmark.peak_memory
from compressor.cli.command import main
from export import bench
from export.benchmark.peak_memory import peak_memory
from export.benchmark.timing import median_and_p95, timed_in_turn
from export.report.tables import print_bench
from zoo import ModelError, OptionError
from zoo.files import digest


def test_calls_take_turns_and_warm_ups_are_not_timed() -> None:
    seen: list[tuple[str, int]] = []

    def wait(run: int) -> None:
        seen.append(("wait", run))
        time.sleep(0.004)

    taken = timed_in_turn({"note": lambda run: seen.append(("note", run)), "wait": wait}, runs=2, warm_up=1)
    assert seen == [(name, run) for run in (-1, 0, 1) for name in ("note", "wait")]
    assert {name: len(times) for name, times in taken.items()} == {"note": 2, "wait": 2}
    assert min(taken["wait"]) >= 4


def test_median_and_p95_of_a_known_sample() -> None:
    assert median_and_p95(list(range(101))) == {"median": 50.0, "p95": 95.0}
    assert median_and_p95([1.0, 2.00049]) == {"median": 1.5, "p95": 1.95}


@pytest.fixture(scope="module")
def content(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    given = [files["fp32"], files["tensor"], files["int8"]]
    content = bench(given, batch_sizes=(1, 3), threads=(1, 2), runs=3, out=out)
    assert json.loads(out.read_text()) == content
    return content


def test_rows(files: dict[str, Path], content: dict[str, Any]) -> None:
    names = [str(files[name]) for name in ("fp32", "tensor", "int8")]
    rows = content["rows"]
    expected = [(threads, batch, name) for threads in (1, 2) for batch in (1, 3) for name in names]
    assert [(row["threads"], row["batch"], row["file"]) for row in rows] == expected
    for index, row in enumerate(rows):
        median = row["latency_ms"]["median"]
        assert 0 < median <= row["latency_ms"]["p95"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / median, rel=1e-3)
        first = rows[index - index % 3]["latency_ms"]["median"]
        assert row["speed_to_first"] == pytest.approx(first / median, abs=1e-3)
        assert row["peak_memory_bytes"] > content["runtime_memory_bytes"] > 10_000_000


def test_files_are_described(files: dict[str, Path], content: dict[str, Any]) -> None:
    assert content["image_size"] == 64  # twice the networks' 32
    fp32, tensor, int8 = content["files"]
    assert [entry["input"] for entry in (fp32, tensor, int8)] == ["pixels", "tensor", "pixels"]
    assert [entry["precision"] for entry in (fp32, tensor, int8)] == ["fp32", "fp32", "int8"]
    assert int8["digest"] == digest(files["int8"]) and int8["bytes"] == files["int8"].stat().st_size


def test_peak_memory_is_of_the_file_alone(files: dict[str, Path]) -> None:
    ours = bytearray(b"1") * 600_000_000  # a child's ru_maxrss would start at this
    small = peak_memory(files["fp32"], 1, {"image": ((1, 64, 64, 3), "uint8")})
    large = peak_memory(files["fp32"], 1, {"image": ((16, 640, 640, 3), "uint8")})
    assert small["peak"] is not None and large["peak"] is not None
    assert small["peak"] < 300_000_000 < len(ours)
    # The batch in bytes and, to be resized, in float32.
    assert large["peak"] - small["peak"] > 16 * 640 * 640 * 3 * 5


def test_the_process_that_is_measured_finds_this_project_in_a_checkout(files: dict[str, Path]) -> None:
    """-S leaves out what is installed as a link to a checkout, as -P does the working directory."""
    script = Path(export.benchmark.peak_memory.__file__)
    site = Path(np.__file__).parents[1]
    inputs = json.dumps({"image": ((1, 64, 64, 3), "uint8")})
    done = subprocess.run(
        [sys.executable, "-S", "-P", str(script), str(files["fp32"]), "1", inputs, "[]"],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak"] > 10_000_000


def test_the_table_tells_inputs_apart(content: dict[str, Any]) -> None:
    stream = io.StringIO()
    print_bench(content, Console(file=stream, width=240))
    text = stream.getvalue()
    lines = [line.split() for line in text.splitlines() if line.strip().endswith(tuple("0123456789"))]
    assert [line[1] for line in lines] == 4 * ["pixels", "tensor", "pixels"]
    assert lines[0][8] == "1.00" and lines[0][3:5] == ["1", "1"]
    assert "64 x 64, resized inside the file and inside the time" in text
    assert "are the caller's and are not in the time" in text


def test_from_the_shell(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    words = ["bench", str(files["fp32"]), "--batch-sizes", "[2]", "--threads", "[1]", "--runs", "1"]
    assert main([*words, "--image-size", "40", "--out", str(tmp_path / "b.json")]) == 0
    assert "40 x 40" in capsys.readouterr().out
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["batch"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": (1, 0)}, r"batch_sizes is \[1, 0\]"),
        ({"threads": (0,)}, r"threads is \[0\]"),
        ({"threads": ()}, r"threads is \[\]"),
        ({"threads": (2000,)}, r"threads is \[2000\]; each must be a whole number in 1\.\.1024"),
        ({"batch_sizes": "8"}, "batch_sizes is '8'; it must be a list of whole numbers"),
        ({"batch_sizes": (1, "8")}, r"batch_sizes is \(1, '8'\); it must be a list"),
        ({"runs": "3"}, "runs is '3'; it must be a number"),
        ({"runs": 0}, "runs is 0"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_options_that_cannot_be(files: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bench([files["fp32"]], **options)


def test_files_that_cannot_be(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(OptionError, match="at least one"):
        bench([])
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        bench([files["fp32"], tmp_path / "nowhere.onnx"])
    with pytest.raises(ModelError, match=r"text\.onnx is not an ONNX file"):
        bench([tmp_path / "text.onnx"])
    with pytest.raises(ModelError, match=r"failed on a batch of shape .* smaller batch"):
        peak_memory(files["tensor"], 1, {"tensor": ((1, 4, 32, 32), "float32")})
