from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from inspect import signature
from typing import Any

import pytest

from compressor.cli.command import main
from compressor.cli.help import SUBJECTS, help_of, subject_of
from compressor.cli.manners import FLAGS, LOG_FILE
from compressor.cli.parsing import parser_of
from compressor.cli.verbs import EXPORT_MODEL, SECTIONS, VERBS, function_of, summary


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_line_and_no_line_is_too_long(verb: str) -> None:
    text = help_of(verb)
    assert max(map(len, text.splitlines())) <= 80
    words = set(text.replace(",", " ").replace(". ", " ").split())
    for action in parser_of(verb)._actions:
        section, _, name = action.dest.rpartition(".")
        if verb != "run" or section or name not in SECTIONS:
            assert (name if section else f"--{name}") in words, action.dest
    assert {f"--{name}" for name in (*FLAGS, LOG_FILE)} <= words


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_subject(verb: str) -> None:
    names = [
        name for name in signature(function_of(VERBS[verb])).parameters if not (verb == "run" and name in SECTIONS)
    ]
    if verb == "export":
        names += [name for name in signature(function_of(EXPORT_MODEL)).parameters if name != "before"]
    assert {subject_of(verb, name) for name in names} <= set(SUBJECTS)


def test_an_option_is_under_its_subject_with_its_default_by_hand() -> None:
    text = help_of("train")
    optimisation = text.split("\noptimisation:\n")[1].split("\n\n")[0]
    assert "  --step_epochs N       for schedule step: epochs between two steps. (default:\n" in optimisation
    assert text.startswith("usage: compressor train DATA OUT [options]\n")
    assert "  --out PATH            folder for the model. (required)" in text
    assert help_of("export").startswith("usage: compressor export MODEL [OUT] [options]\n")
    assert "\nprecision:\n  --precision NAME" in help_of("export")
    assert help_of("bench").startswith("usage: compressor bench FILES... [options]\n")
    assert "  --batch_sizes N ...   images in one inference. (default: 1 8 32)" in help_of("bench")


def test_the_help_of_run_lists_what_its_sections_take() -> None:
    listed = {section: help_of("run").split(f"\n{section}.OPTION")[1].split("\n\n")[0] for section in SECTIONS}
    for action in parser_of("run")._actions:
        section, _, name = action.dest.rpartition(".")
        if section:
            assert name in listed[section].replace(",", " ").replace(".", " ").split(), action.dest
    assert "teacher," not in listed["report"]


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        ([], 2, "usage: compressor COMMAND"),
        (["help"], 0, "usage: compressor COMMAND"),
        (["--help"], 0, "usage: compressor COMMAND"),
        (["help", "index"], 0, "index search"),
        (["index"], 2, "index search"),
        (["index", "--help"], 0, "index search"),
        (["help", "train"], 0, "usage: compressor train"),
        (["train", "--help"], 0, "usage: compressor train"),
        (["help", "index", "build"], 0, "usage: compressor index build"),
        (["index", "build", "-h"], 0, "usage: compressor index build"),
        (["version"], 0, version("embedding-compressor")),
        (["--version"], 0, version("embedding-compressor")),
    ],
)
def test_what_is_answered(words: list[str], code: int, shown: str, capsys: Any) -> None:
    assert main(words) == code
    captured = capsys.readouterr()
    assert shown in captured.out and not captured.err
    assert max(map(len, captured.out.splitlines())) <= 80


def test_summaries_are_the_first_lines_of_docstrings() -> None:
    for verb, home in VERBS.items():
        assert summary(verb) == (function_of(home).__doc__ or "").strip().splitlines()[0]


def test_the_overview_imports_nothing_that_verbs_compute_with() -> None:
    code = "import sys; from compressor.cli.help import overview; overview(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnx", "onnxruntime", "torch", "PIL"} & set(done.stdout.split())
