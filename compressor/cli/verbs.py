"""What the shell offers: the verbs, the words that may follow them, and the codes they exit with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.distillation import distill
from compressor.int8_finish.shipping import ship
from compressor.pipeline import run
from export.benchmark.bench import bench
from export.index.verbs import build_index, search_index
from export.onnx.inspection import inspect
from export.report.validation import validate
from export.shipping import export_model
from zoo.training.train import train

DONE, USER_ERROR, BAD_USAGE, GATE_FAILED = 0, 1, 2, 3

VERBS: dict[str, Callable[..., Any]] = {
    "train": train,
    "distill": distill,
    "export": ship,
    "validate": validate,
    "run": run,
    "bench": bench,
    "inspect": inspect,
    "index build": build_index,
    "index search": search_index,
}
GROUPS = {"index": ["build", "search"]}  # the first word of verbs of two
# Options that may be given as plain words right after the verb, in this order; a list takes all of them.
LEADING = {
    "train": ["data", "out"],
    "distill": ["teacher", "data", "out"],
    "export": ["model", "out"],
    "validate": ["models"],
    "run": ["config"],
    "bench": ["files"],
    "inspect": ["file"],
    "index build": ["model", "gallery", "out"],
    "index search": ["index", "queries"],
}
SECTIONS: dict[str, Callable[..., Any]] = {  # of the verb run
    "teacher": train,
    "student": distill,
    "export": export_model,
    "report": validate,
}


def summary(verb: Callable[..., Any]) -> str:
    """Return what a verb does, in a line: the first of its docstring."""
    return (verb.__doc__ or "").strip().splitlines()[0]
