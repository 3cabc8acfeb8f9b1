"""The verbs of the command line, the words that may follow them, and their exit codes.

Functions are imported on demand, so that one verb does not wait for the imports of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

DONE, USER_ERROR, BAD_USAGE, GATE_FAILED = 0, 1, 2, 3

VERBS: dict[str, str] = {  # verb -> its function
    "check": "zoo.data.checking.check:check",
    "train": "zoo.training.train:train",
    "distill": "compressor.distillation:distill",
    "export": "compressor.int8_finish.shipping:ship",
    "publish": "export.hub.publish:publish",
    "validate": "export.report.validation:validate",
    "run": "compressor.pipeline:run",
    "embed": "export.embedding.embed_data:embed_data",
    "bench": "export.benchmark.bench:bench",
    "inspect": "export.onnx.inspection:inspect",
    "demo-web": "export.web.demo:demo_web",
    "index build": "export.index.verbs:build_index",
    "index search": "export.index.verbs:search_index",
    "index export": "export.index.exporting:export_index",
}
EXPORT_MODEL = "export.shipping:export_model"  # export passes its options on to this
GROUPS = {"index": "Galleries that can be searched."}  # first words of two-word verbs
NEEDS_TRAIN = ("train", "distill", "export", "validate", "run", "demo-web")  # verbs that need the extra train
# Options that may be given as plain words right after the verb, in this order; a list takes all remaining words.
LEADING = {
    "check": ["data"],
    "train": ["data", "out"],
    "distill": ["teacher", "data", "out"],
    "export": ["model", "out"],
    "publish": ["folder", "repo"],
    "validate": ["models"],
    "run": ["config"],
    "embed": ["model", "source", "out"],
    "bench": ["files"],
    "inspect": ["file"],
    "demo-web": ["model", "gallery", "out"],
    "index build": ["model", "gallery", "out"],
    "index search": ["index", "queries"],
    "index export": ["index", "out"],
}
LISTS = ("models", "files", "queries")  # those of them that are lists
SECTIONS: dict[str, str] = {  # sections of the verb run, one per stage
    "teacher": VERBS["train"],
    "student": VERBS["distill"],
    "export": EXPORT_MODEL,
    "report": VERBS["validate"],
}
# Arguments of these functions, and of export, that run sets itself or that only Python can give.
GIVEN_BY = {
    "teacher": {"data", "out"},
    "student": {"teacher", "data", "out"},
    "export": {"model", "out", "before"},
    "report": {"models", "teacher", "data", "out"},
}


def function_of(home: str) -> Callable[..., Any]:
    """Return the function behind a ``module:name``."""
    module, name = home.split(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def summary(verb: str) -> str:
    """Return what a verb does, in a line: the first of its docstring, read without importing what the verb needs."""
    module, name = VERBS[verb].split(":")
    package, *below = module.split(".")
    found = find_spec(package)
    for part in below:  # find_spec of the whole name would import the packages around it
        found = found and PathFinder.find_spec(f"{found.name}.{part}", found.submodule_search_locations)
    source = getattr(found and found.loader, "get_source", lambda _: "")(module)
    said = re.search(rf'^def {name}\(.*?^    """(.+?)$', source or "", re.MULTILINE | re.DOTALL)
    return said[1] if said else (function_of(VERBS[verb]).__doc__ or "").strip().splitlines()[0]
