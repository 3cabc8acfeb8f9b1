"""A program as a model: its input, its allowed answers, and the messages if it fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import validate
from zoo import ModelError, OptionError, load_data
from zoo.data.image_set import ImageSet
from zoo.retrieval.measures import measure
from zoo.teachers.opening import open_teacher

# Means of the channels, as any program in any language might compute them.
MEANS = """
import json, sys
import numpy as np
from PIL import Image

for line in sys.stdin:
    pixels = np.asarray(Image.open(line.rstrip("\\n")), dtype=np.float64)
    assert pixels.shape[2] == 3
    print(json.dumps(pixels.mean(axis=(0, 1)).tolist()))
"""


def program(folder: Path, code: str, options: str = "") -> str:
    file = folder / "run it.py"  # a name that must be quoted
    file.write_text(code, encoding="utf-8")
    return f"command:{sys.executable} '{file}'{options}"


def images(count: int) -> ImageSet:
    random = np.random.default_rng(0)
    return ImageSet(
        [str(index) for index in range(count)],
        [random.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8) for index in range(count)],
    )


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_a_program_is_given_pixels_and_gives_vectors(batch: int, tmp_path: Path) -> None:
    teacher = open_teacher(program(tmp_path, MEANS, f"#batch_size={batch}"))
    shown = images(5)
    expected = [shown.pixels(index).mean(axis=(0, 1)) for index in range(5)]
    found = teacher.embed_images(shown)
    assert found.dtype == np.float32 and teacher.metric == "cosine" and teacher.ships
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    views = torch.from_numpy(np.stack([shown.pixels(0)] * 2)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(teacher.embed_views(views, torch.tensor([0, 0]), shown), [expected[0]] * 2, rtol=1e-6)


def test_the_digest_changes_with_the_files_that_a_command_names(tmp_path: Path) -> None:
    first = open_teacher(program(tmp_path, MEANS))
    assert open_teacher(program(tmp_path, MEANS)).digest == first.digest
    assert open_teacher(program(tmp_path, MEANS, "#metric=euclidean")).digest != first.digest
    assert open_teacher(program(tmp_path, f"{MEANS}\n")).digest != first.digest


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no such model')", r"exited with 1 \(no such model\)"),
        ("import sys; sys.exit(3)", r"exited with 3 \(it wrote no error\)"),
        ("print('[1.0, 2.0]')", "wrote 1 lines for 2 images"),
        ("print('[1, 2]'); print('[1, 2, 3]')", r"different sizes: \[2, 3\]"),
        ("print('[1, 2]'); print('[1, NaN]')", "not finite for image 2 of 2"),
        ("print('[1, 1e999]'); print('[1, 2]')", "not finite for image 1 of 2"),
        ("print('loading'); print('[1, 2]')", "wrote 'loading' in line 1; it must be a JSON list of numbers"),
        ("print('[1, \"2\"]'); print('[1, 2]')", "must be a JSON list of numbers"),
        ("print('[true]'); print('[1]')", "must be a JSON list of numbers"),
        ("print('[]'); print('[]')", r"found shape \(2, 0\)"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", "wrote no text"),
    ],
)
def test_what_a_program_may_not_do(code: str, message: str, tmp_path: Path) -> None:
    teacher = open_teacher(program(tmp_path, code))
    with pytest.raises(ModelError, match=message):
        teacher.embed_images(images(2))


def test_a_program_may_not_take_for_ever(tmp_path: Path) -> None:
    teacher = open_teacher(program(tmp_path, "import time; time.sleep(60)", "#timeout=1"))
    with pytest.raises(ModelError, match="did not end within 1 s"):
        teacher.embed_images(images(1))


def test_vectors_are_of_the_same_size_in_every_run(tmp_path: Path) -> None:
    code = "import sys; lines = list(sys.stdin); print(*[[1.0] * (1 + len(lines))] * len(lines), sep='\\n')"
    teacher = open_teacher(program(tmp_path, code, "#batch_size=2"))
    with pytest.raises(ModelError, match="gave vectors of 2 dimensions, and of 3 before"):
        teacher.embed_images(images(3))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("command: ", OptionError, "names no program"),
        ("command:'", OptionError, "Close its quotes"),
        ("command:/no/such/program --model x", ModelError, "is no program that can be run"),
        ("command:cat#layout=nhwc", OptionError, "is no option of such a teacher"),
        ("command:cat#timeout=0", OptionError, r"timeout is '0'; it must be a whole number in 1\.\.86400"),
    ],
)
def test_commands_that_cannot_be(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_teacher(text)


def test_the_gate_holds_for_a_program(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """It is what ships, also beside a model that was made here; a model of another make is not."""
    data = load_data(f"folder:{photos}", validation=0.34)
    command = program(tmp_path, MEANS, "#metric=euclidean")
    options: dict[str, Any] = {"latency_runs": 1, "bootstrap": 20, "baselines": False}
    report = validate([tiny_teacher, command], tiny_teacher, data, tmp_path / "r", min_retention=1.5, **options)
    row = report.content["stages"][-1]
    expected = measure(open_teacher(command).embed_images(data.test), data.test, "euclidean")
    assert row["recall"]["1"] == pytest.approx(expected.recall_at(1))
    assert row["source"] == f"command:{Path(sys.executable).name} run it.py"  # no place on this machine
    assert row["runtime"] == "command" and row["latency_ms"] is None and "foreign" not in row
    assert any(row["stage"] in reason for reason in report.content["gate"]["reasons"])
