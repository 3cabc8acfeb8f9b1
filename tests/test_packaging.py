"""What ``pip install embedding-compressor`` installs: the device's part works, and the rest names its extra."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"zoo", "compressor", "export", "tests"}

# Runs each command of a list as the shell would, in one process, and prints what came of it as a line of JSON.
RUN = """
import contextlib, io, json, sys
commands, absent = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(absent))
from compressor.cli import main
for words in commands:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def closure(requirements: list[str]) -> set[str]:
    """Return the names of what is installed with these requirements."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        seen = name in found and not requirement.extras
        found.add(name)
        if not seen:
            try:
                below = [Requirement(text) for text in requires(requirement.name) or []]
            except PackageNotFoundError:
                continue
            waiting += [(each, wanted) for each in below for wanted in ("", *requirement.extras)]
    return found


def not_in_the_base() -> list[str]:
    """Return the modules here that the base does not bring."""
    base = closure(PROJECT["dependencies"])
    return sorted(
        module
        for module, packages in packages_distributions().items()
        if module not in OURS and not base & {canonicalize_name(name) for name in packages}
    )


def commands(model: Path, photos: Path, out: Path) -> dict[str, list[str]]:
    image = str(photos / "class01" / "2.png")
    return {
        "help": ["help"],
        "version": ["version"],
        "embed": ["embed", str(model), str(photos), str(out / "photos.npz")],
        "inspect": ["inspect", str(model), "--json"],
        "bench": ["bench", str(model), "--runs", "1", "--threads", "1", "--batch_sizes", "1"],
        "index build": ["index", "build", str(model), str(photos), str(out / "index")],
        "index search": ["index", "search", str(out / "index"), image, "--k", "1"],
        "sq8": ["index", "build", str(model), str(photos), str(out / "sq8"), "--kind", "sq8"],
        "train": ["train", str(photos), str(out / "teacher")],
        "train --help": ["train", "--help"],
        "distill": ["distill", str(model), str(photos), str(out / "student")],
        "export": ["export", str(out)],
        "validate": ["validate", str(model), "--teacher", str(model), "--data", str(photos), "--out", str(out)],
        "run": ["run", "--data", str(photos), "--out", str(out / "run")],
        "folder": ["embed", str(out), str(photos), str(out / "folder.npz")],
    }


def check(found: dict[str, tuple[int, str, str]], photos: Path, out: Path) -> None:
    for name in ("help", "version", "embed", "inspect", "bench", "index build", "index search", "train --help"):
        assert found[name][0] == 0, found[name]
    with np.load(out / "photos.npz") as arrays:
        assert arrays["embeddings"].shape == (96, 8)
    assert json.loads(found["inspect"][1])["dim"] == "8"
    assert found["index search"][1].split("\t")[1:3] == ["1", "class01/2.png"]
    for name in ("train", "distill", "export", "validate", "run", "folder", "sq8"):
        code, _, err = found[name]
        extra = "index" if name == "sq8" else "train"
        assert code == 1 and err.count("\n") == 1 and "Traceback" not in err, (name, err)
        assert re.search(rf"^error: .* needs \w+, .* pip install 'embedding-compressor\[{extra}\]'$", err), (name, err)


def test_the_device_s_verbs_do_without_the_extras(tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    asked = commands(tiny_onnx(tmp_path / "model.onnx"), photos, tmp_path)
    absent = not_in_the_base()
    assert {"torch", "timm", "lightning", "faiss", "matplotlib"} <= set(absent)
    assert not {"numpy", "PIL", "onnxruntime", "onnx", "yaml", "rich"} & set(absent)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([list(asked.values()), absent]),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    check(dict(zip(asked, lines, strict=True)), photos, tmp_path)


@pytest.mark.skipif("INSTALL_WHEEL" not in os.environ, reason="make test-install does it: it needs a package registry")
def test_the_wheel_in_an_environment_of_its_own(tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", str(wheel)], check=True)
    subprocess.run([programs / "pip", "check"], check=True)
    listed = subprocess.run([programs / "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {canonicalize_name(entry["name"]) for entry in json.loads(listed.stdout)}
    assert not {"torch", "torchvision", "timm", "lightning", "faiss-cpu", "matplotlib", "scipy"} & installed
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = {}
    for name, words in commands(tiny_onnx(tmp_path / "model.onnx"), photos, tmp_path).items():
        done = subprocess.run(
            [programs / "compressor", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        found[name] = (done.returncode, done.stdout, done.stderr)
    check(found, photos, tmp_path)


def test_extras_bring_what_they_are_said_to_bring() -> None:
    from zoo.extras import EXTRAS

    brought = packages_distributions()
    for extra, modules in EXTRAS.items():
        named = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
        for module in modules:
            packages = {canonicalize_name(name) for name in brought.get(module, [])}
            assert not packages or packages & named, (extra, module)


def test_citation_names_the_four_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    urls = [entry["url"] for entry in citation["references"]]
    assert urls == [
        f"https://arxiv.org/abs/{number}" for number in ("2003.13911", "2103.14908", "1904.09626", "2201.01008")
    ]
    assert citation["version"] == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
