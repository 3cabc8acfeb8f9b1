"""The documentation is correct: examples run, commands parse, links resolve, and formats list the keys that exist."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path for where in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md") for path in ROOT.glob(where)
)
REPOSITORY = re.compile(  # as the README names it, whose links must work on a package index too
    r"https://(?:github\.com/([\w-]+/[\w-]+)/(?:blob|tree)|raw\.githubusercontent\.com/([\w-]+/[\w-]+))/main/([^#]*)#?(.*)"
)
SECONDS = 400
NOT_INSTALLED = ("datasets", "pandas")  # what examples import and is left out where it is not installed


def named(path: Path) -> str:
    """Return how tests call a document."""
    return path.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> list[Any]:
    """Return the code blocks of these languages in all documents, each named by document and line."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            if match[1] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{named(path)}:{line}"))
    return found


def commands(script: str) -> Iterator[list[str]]:
    """Yield the words after ``compressor`` of each such command in a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word[0] not in ";&|<>":
                command.append(word)
                continue
            while command and ("=" in command[0] or command[0] in ("time", "srun")):
                command.pop(0)
            if command[1:3] == ["-m", "compressor"]:
                yield command[3:]
            elif command and Path(command[0]).name == "compressor":
                yield command[1:]
            command = []


@pytest.mark.parametrize("code", blocks("python"))
def test_example_runs(code: str, tmp_path: Path, photos: Path) -> None:
    for package in NOT_INSTALLED:
        if f"import {package}\n" in code:
            pytest.importorskip(package)
    if "photos" in code and "mkdir" not in code:
        shutil.copytree(photos, tmp_path / "photos")
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def job_scripts() -> list[Any]:
    """Return the scripts for schedulers, each named by its path."""
    found = sorted(ROOT.glob("examples/**/*.sbatch"))
    assert found
    return [pytest.param(path.read_text(encoding="utf-8"), id=named(path)) for path in found]


@pytest.mark.parametrize("script", [*blocks("bash", "shell", "sh"), *job_scripts()])
def test_commands_parse(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from compressor.cli import command

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "_carry_out", lambda *given: command.DONE)
    for words in commands(script):
        assert command.main(words) == command.DONE, f"compressor {shlex.join(words)}\n{capsys.readouterr().err}"


def test_commands_are_found_in_shell_scripts() -> None:
    script = "cd compressor && X=1 .venv/bin/compressor train \\\n  glyphs; cat a | python -m compressor run > b  # go"
    assert list(commands(script)) == [["train", "glyphs"], ["run"]]


@pytest.mark.parametrize(
    "config",
    sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/transfer/*.yaml")]),
    ids=lambda path: path.name,
)
def test_configuration_parses(config: Path) -> None:
    from compressor.cli.parsing import parser_of

    options = parser_of("run").parse_args([f"--config={config}", "--data=folder:photos", "--out=runs/x"])
    assert options.data == "folder:photos" and options.out == "runs/x"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        own = REPOSITORY.fullmatch(target)
        if "://" in target and own is None:
            continue
        name, _, anchor = target.partition("#") if own is None else (own[3], "#", own[4])
        linked = (ROOT if own else path.parent) / name if name else path
        assert linked.exists(), f"{named(path)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [_slug(heading) for heading in headings], f"{named(path)} links to {target}"
    for mentioned in re.findall(r"`((?:configs|docs|benchmarks)/[\w./-]+\.(?:yaml|md|py))`", text):
        assert (ROOT / mentioned).is_file(), f"{named(path)} mentions {mentioned}"


def test_links_of_the_readme_work_on_a_package_index() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert targets and all(target.startswith("https://") for target in targets)


def test_pages_are_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in navigation, page


def test_formats_name_every_key(photos: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnx
    import torch

    from export import bench, inspect, to_onnx, validate
    from zoo import create_model, save_model
    from zoo.formats.model_config import FACTS_KEY
    from zoo.losses.novel.report import report_generated
    from zoo.models.facts import ModelFacts

    folder = tmp_path / "model"
    save_model(create_model("test_resnet", 8, image_size=32), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert documented("Model folder", 1) == set(config[FACTS_KEY]) == set(asdict(ModelFacts()))

    labels, random = np.arange(3).repeat(5), torch.Generator().manual_seed(0)
    vectors = torch.randn(15, 4, generator=random).numpy()
    report_generated(vectors, labels, lambda y: torch.randn(len(y), 4, generator=random), 3, 2, tmp_path)
    generated = json.loads((tmp_path / "generated.json").read_text(encoding="utf-8"))
    assert documented("Model folder", 3) == set(_keys(generated))

    file = to_onnx(folder, tmp_path / "model.onnx")
    metadata = {entry.key for entry in onnx.load(file, load_external_data=False).metadata_props}
    assert documented("ONNX file", 1) == metadata | {"quantization"}  # which fp32 files lack

    report = validate([folder, file], folder, f"folder:{photos}", tmp_path / "report", bootstrap=10, latency_runs=1)
    content = json.loads((report.folder / "report.json").read_text(encoding="utf-8"))
    assert documented("Report", 0) == set(_keys(content)) | {"data.note"}

    assert documented("Benchmark", 0) == set(_keys(bench([file], batch_sizes=[1], threads=[1], runs=1)))
    assert documented("Inspection", 0) == set(inspect(file))


def test_formats_name_every_key_of_label_distance(spots: Path, spot_teacher: Path, tmp_path: Path) -> None:
    from export import validate

    labels = spots / "positions.csv"
    options = {"continuous_labels": labels, "bootstrap": 10, "latency_runs": 1}
    report = validate([spot_teacher], spot_teacher, f"csv:{spots / 'images.csv'}", tmp_path, **options)  # type: ignore[arg-type]
    by_class = {
        key for key in documented("Report", 0) if key.endswith((".classes", "r_precision", "map_at_r", "recall.K"))
    }
    expected = (documented("Report", 0) | documented("Report", 3)) - by_class - {"data.note"}
    assert set(_keys(report.content)) == expected and len(by_class) == 6


def test_formats_name_every_key_of_indexes_and_pairs(photos: Path, tmp_path: Path) -> None:
    from export import build_index, validate
    from zoo import create_model, save_model

    folder = tmp_path / "model"
    save_model(create_model("test_resnet", 8, image_size=32), folder)
    index = build_index(folder, str(photos), tmp_path / "index")
    files = documented("Index folder", 0)
    assert files == {file.name for file in index.iterdir()}
    facts = json.loads((index / "index.json").read_text(encoding="utf-8"))
    assert documented("Index folder", 1) == set(_keys(facts)) | {"parameters"}  # of flat there are none

    teacher = tmp_path / "teacher"
    save_model(create_model("test_resnet", 16, image_size=32), teacher)
    report = validate(
        [folder],
        teacher,
        f"folder:{photos}",
        tmp_path / "report",
        bootstrap=10,
        latency_runs=1,
        index="binary",
        query_encoder=folder,
        gallery_encoder=folder,
    )
    pair, indexed = report.content["stages"][3:]
    assert documented("Report", 1) == {f"stages[].index.{key}" for key in indexed["index"]}
    assert documented("Report", 2) == {f"stages[].pair.{key}" for key in pair["pair"]}
    assert report.content["stages"][1]["baseline"] == "teacher-pca"
    compared = set(_keys(report.content["verdict"]["comparisons"], "verdict.comparisons"))
    assert documented("Report", 4) == {"stages[].baseline"} | compared


def documented(heading: str, table: int) -> set[str]:
    """Return the names in the first column of the nth table under a heading of docs/formats.md."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    return set(re.findall(r"^\| `([^`]+)` \|", tables[table], flags=re.MULTILINE))


def _keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths to the values of a JSON document; K stands for a number, and versions are not looked into."""
    if isinstance(value, dict) and prefix != "versions":
        for key, item in value.items():
            name = "K" if key.isdigit() else key
            yield from _keys(item, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from _keys(item, f"{prefix}[]")
    else:
        yield prefix


def _slug(heading: str) -> str:
    """Return the anchor that forges give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_troubleshooting_quotes_messages_as_they_are() -> None:
    said = [message for package in ("zoo", "compressor", "export") for message in _messages(ROOT / package)]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `(.+?)` \|", page, flags=re.MULTILINE)
    assert len(quoted) > 40
    for message in quoted:
        parts = [re.escape(part.strip()) for part in message.split("…") if part.strip(" ,;.()")]
        pattern = re.compile(".*".join(parts), flags=re.DOTALL)
        assert any(pattern.search(text) for text in said), message


def _messages(package: Path) -> Iterator[str]:
    """Yield the strings in a package's sources, with … for what is filled in."""
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%(?:\.\d+)?[sdfge]", "…", node.value).replace("%%", "%")
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
