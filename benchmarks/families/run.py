"""From a teacher of each family and a folder of photographs to a validated student: how many lines a user writes.

    python -m benchmarks.families.run --photos PATH

Each script is run as a user would run it, in a folder with ``photos`` and the teacher, and must end with a report on
the student and its ONNX file. The teachers are small and have random weights, so that nothing is downloaded: their
figures show only that the lines work. For the same reason ``weights='DEFAULT'`` is replaced by ``weights=None``, and
``$SMALL`` and ``small`` add options for a small student and a report without times, which a user leaves out.
``--photos`` is a folder with one folder per class; 16 classes with 30 images each are used. Each family's row is
written to results.json beside this file when it is measured, and results.md is made from that. ``--families`` chooses
the families to measure again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.teachers import MAKERS
from benchmarks.results import markdown_table
from zoo.files import write_json, write_text
from zoo.versions import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLASSES, IMAGES = 16, 30
MOST_LINES = 5
SMALL: dict[str, Any] = {  # no validation classes: all classes are needed to tell random weights from chance
    "validation": 0,
    "student": {"arch": "test_resnet", "dim": 16, "image_size": 64, "epochs": 3, "batch_size": 32},
    "report": {"latency_runs": 0},
}
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"
LIBRARIES = ("timm", "transformers", "open_clip_torch", "sentence-transformers", "torchvision", "torch", "onnxruntime")
_RUN = "compressor run --data folder:photos --out runs/mine --given_teacher {} $SMALL"


@dataclass(frozen=True)
class Script:
    """The lines that a user writes.

    Attributes:
        text: the lines.
        python: whether they are Python; else they are for the shell.
    """

    text: str
    python: bool = False

    @property
    def lines(self) -> int:
        """Number of lines that are not blank."""
        return sum(1 for line in self.text.splitlines() if line.strip())


SCRIPTS = {
    "timm": Script(_RUN.format("timm:teacher")),
    "transformers": Script(_RUN.format("hf:teacher")),
    "open_clip": Script(_RUN.format("open_clip:teacher")),
    "sentence-transformers": Script(_RUN.format("st:teacher")),
    "torchvision": Script(
        """\
import torchvision
from safetensors.torch import save_file
from compressor import run
save_file(torchvision.models.mobilenet_v3_small(weights='DEFAULT').state_dict(), "net.safetensors")
run("photos", "runs/mine", given_teacher="torchvision:mobilenet_v3_small/net.safetensors", **small)
""",
        python=True,
    ),
    "model folder": Script(_RUN.format("teacher")),
    "ONNX of another make": Script(_RUN.format("teacher.onnx")),
    "stored vectors": Script(_RUN.format("teacher.npz")),
    "torch module": Script(
        """\
from compressor import run
from network import network
run("photos", "runs/mine", given_teacher=network, **small)
""",
        python=True,
    ),
}


def carry_out(family: str, photos: Path, folder: Path) -> dict[str, Any]:
    """Make a family's teacher in an empty folder, run the user's script there, and return what was measured.

    Args:
        family: a key of ``SCRIPTS``.
        photos: folder of photographs, with one folder per class.
        folder: an empty folder.

    Raises:
        RuntimeError: the script failed or wrote no report; the message ends with its output.
    """
    torch.manual_seed(0)
    (folder / "photos").symlink_to(photos.resolve(), target_is_directory=True)
    MAKERS[family](folder, photos)
    script = SCRIPTS[family]
    parts = [(f"{part}.{name}", value) for part in ("student", "report") for name, value in SMALL[part].items()]
    words = " ".join(f"--{name} {value}" for name, value in [("validation", SMALL["validation"]), *parts])
    text = script.text.replace("weights='DEFAULT'", "weights=None")
    if script.python:
        command = [sys.executable, "-c", f"small = {SMALL!r}\nif __name__ == '__main__':\n{_indented(text)}"]
    else:
        command = ["bash", "-c", text.replace("compressor", f"{sys.executable} -m compressor", 1)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "SMALL": words}
    begun = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    report = folder / "runs" / "mine" / "report" / "report.json"
    if result.returncode or not report.is_file():
        raise RuntimeError(f"{family}: {text}\n{(result.stdout + result.stderr)[-3000:]}")
    rows = {row["stage"]: row for row in json.loads(report.read_text(encoding="utf-8"))["stages"]}
    recalls = {stage: rows[stage]["recall"]["1"] for stage in ("teacher", "student", "onnx-fp32")}
    return {"lines": script.lines, "language": "Python" if script.python else "shell", "recall_at_1": recalls} | {
        "seconds": seconds
    }


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def some_of(photos: Path, folder: Path) -> Path:
    """Copy the first images of evenly spaced classes."""
    classes = sorted(each for each in photos.iterdir() if each.is_dir() and len(list(each.glob("*.jpg"))) >= IMAGES)
    for each in classes[:: max(1, len(classes) // CLASSES)][:CLASSES]:
        (folder / each.name).mkdir(parents=True)
        for file in sorted(each.glob("*.jpg"))[:IMAGES]:
            shutil.copy(file, folder / each.name)
    return folder


def main() -> None:
    """Run every family's script, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of .jpg files for each class")
    parser.add_argument("--families", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS))
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["families"] if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        photos = some_of(given.photos, Path(temporary) / "photos")
        for number, family in enumerate(given.families):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            rows[family] = carry_out(family, photos, folder)
            print(family, rows[family], flush=True)
            content: dict[str, Any] = {
                "photographs": {"set": given.photos.name, "classes": CLASSES, "images": CLASSES * IMAGES},
                "small": SMALL,
                "versions": {name: version(name) for name in LIBRARIES},
                "machine": machine(),
                "families": {name: rows[name] for name in SCRIPTS if name in rows},
            }
            write_json(RESULTS, content)
            write_text(TABLE, table(content))


def table(content: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    about = content["photographs"]
    lines = [
        "# From a teacher to a validated student",
        "",
        f"The lines that a user writes, from a teacher of each family and {about['images']} photographs of "
        f"{about['classes']} classes ({about['set']}) to a report on the student and its ONNX file; at most "
        f"{MOST_LINES} are asked for. The teachers are small and have random weights, so Recall@1 shows that the lines "
        "work, and no more. Made by `python -m benchmarks.families.run`.",
        "",
    ]
    rows = [
        [
            family,
            str(row["lines"]),
            row["language"],
            ", ".join(f"{100 * value:.1f}" for value in row["recall_at_1"].values()),
        ]
        for family, row in content["families"].items()
    ]
    lines += markdown_table(["teacher", "lines", "in", "Recall@1, %: teacher, student, ONNX"], rows)
    lines += [
        "",
        "The lines, where `$SMALL` and `small` are options of a small student and a report without times:",
        "",
    ]
    for family, script in SCRIPTS.items():
        lines += [f"{family}:", "", "```text", script.text.strip(), "```", ""]
    named = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return "\n".join([*lines, f"Versions: {named}.", ""])


if __name__ == "__main__":
    main()
