"""Help: an overview of the verbs, and each verb's options by subject, from signatures and docstrings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

from compressor.cli.manners import ABOUT_LOG_FILE, FLAGS, LOG_FILE
from compressor.cli.verbs import EXPORT_MODEL, GIVEN_BY, GROUPS, LEADING, LISTS, SECTIONS, VERBS, function_of, summary
from zoo.training.options import SUBJECTS as OF_TRAINING

_WIDTH, _INDENT = 80, 24


def _names(subject: str) -> tuple[str, ...]:
    """Return the training options that belong to a subject."""
    return tuple(each.name for each in fields(OF_TRAINING[subject]))


SUBJECTS: dict[str, tuple[str, ...]] = {
    "models and files": (
        *("model", "models", "teacher", "given_teacher", "file", "files", "source", "gallery", "index", "queries"),
        *("out", "input", "query_encoder", "gallery_encoder", "allow_other_encoder", "layout", "license", "report"),
        *("parity", "folder", "repo", "private", "yes", "runtime", "vectors", "webgpu"),
        *("format", "dtype", "rows_per_part", "shard"),
    ),
    "data": ("data", *_names("data")),
    "network": (*_names("network"), "metric"),
    "loss": _names("loss"),
    "batches": _names("batches"),
    "optimisation": _names("optimisation"),
    "precision": (*("target", "max_drop", "budget_by", "calibration_images", "judged_images", "qat_epochs"),),
    "measurement": (
        *("min_retention", "min_gain", "gain_by", "baselines", "ks", "k", "bootstrap", "latency_runs", "batch_sizes"),
        *("threads", "runs", "radius", "strict", "reuse"),
    ),
    "kind of index": ("kind", "options"),
    "machine": (*_names("machine"), "teacher_precision", "teacher_views", "teacher_cache", "engine", "processes"),
}
# Options whose name means something else in this verb.
_ELSEWHERE = {
    ("export", "precision"): "precision",
    ("validate", "index"): "measurement",
    ("bench", "image_size"): "measurement",
}
_FLAGS_OF = {"inspect": {"nodes": "Name all nodes that compute in float."}}


def overview() -> str:
    """Return the text of ``compressor --help``."""
    rows = [(verb, summary(verb)) for verb in VERBS]
    rows += [("help [COMMAND]", "List the options of a command."), ("version", "Print the version.")]
    return "\n".join(
        [
            "usage: compressor COMMAND [options]",
            "",
            "Make an image-retrieval model small enough to ship, and prove that it still",
            "retrieves.",
            "",
            *(line for row in rows for line in _row(*row, indent=18)),
            "",
            *textwrap.wrap(
                "compressor COMMAND --help lists the options; all are YAML keys too (--config FILE, --print_config). "
                "For every command: --json, --quiet, --verbose, --log_file FILE.",
                _WIDTH,
            ),
            "",
            *textwrap.wrap(
                "Exit codes: 0 done, 1 an error you can fix, 2 bad usage, 3 a gate failed (retention, gain, int8 "
                "recall or a check of data), 130 interrupted.",
                _WIDTH,
            ),
        ]
    )


def help_of_group(group: str) -> str:
    """Return the help of a group: the first word of two-word verbs, without the second."""
    verbs = [verb for verb in VERBS if verb.startswith(f"{group} ")]
    rows = [line for verb in verbs for line in _row(verb, summary(verb), indent=18)]
    return "\n".join([f"usage: compressor {group} COMMAND [options]", "", GROUPS[group], "", *rows])


def help_of(verb: str) -> str:
    """Return the help of a verb: its options by subject, within 80 columns."""
    function = function_of(VERBS[verb])
    described = _described(function)
    lines = [*_usage(verb), ""]
    lines += [*textwrap.wrap(described.pop(""), _WIDTH), ""]
    options = dict(signature(function).parameters)
    if verb == "export":
        described = _described(function_of(EXPORT_MODEL)) | described
        options = {**signature(function_of(EXPORT_MODEL)).parameters, **options}
        del options["options"], options["before"]  # the options of export_model, and a Python-only argument
    of_subject: dict[str, list[str]] = {}
    for name, option in options.items():
        if verb == "run" and name in SECTIONS:
            continue
        of_subject.setdefault(subject_of(verb, name), []).extend(_lines_of(name, option, described.get(name, "")))
    for subject in (*SUBJECTS, "other options"):
        if subject in of_subject:
            lines += [f"{subject}:", *of_subject[subject], ""]
    if verb == "run":
        lines += _sections()
    lines += ["for every command:", *_row("--config FILE", "YAML file with any of the options above.")]
    lines += _row("--print_config", "Print all options as such a file, and stop.")
    for name, text in (_FLAGS_OF.get(verb, {}) | FLAGS).items():
        lines += _row(f"--{name}", text)
    return "\n".join([*lines, *_row(f"--{LOG_FILE} FILE", ABOUT_LOG_FILE)])


def subject_of(verb: str, name: str) -> str:
    """Return the subject that an option is listed under."""
    known = next((subject for subject, names in SUBJECTS.items() if name in names), "other options")
    return _ELSEWHERE.get((verb, name), known)


def _usage(verb: str) -> list[str]:
    options = signature(function_of(VERBS[verb])).parameters
    words = []
    for name in LEADING[verb]:
        word = f"{name.upper()}..." if name in LISTS else name.upper()
        words.append(word if name in options and options[name].default is Parameter.empty else f"[{word}]")
    line = f"usage: compressor {verb} {' '.join(words)} [options]"
    return textwrap.wrap(line, _WIDTH, subsequent_indent=" " * 8)


def _described(function: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions in a docstring by option, and its first sentence under the empty name."""
    from docstring_parser.google import parse

    found = parse(function.__doc__ or "")
    texts = {entry.arg_name: _plain(entry.description or "") for entry in found.params}
    return texts | {"": _plain(found.short_description or "")}


def _plain(text: str) -> str:
    return re.sub(r"``?|\s+", lambda match: "" if "`" in match[0] else " ", text).strip()


def _lines_of(name: str, option: Parameter, text: str) -> list[str]:
    """Return an option's lines: its name, the type of its value, its description and its default."""
    default = option.default
    if default is Parameter.empty:
        text += " (required)"
    elif default not in (None, (), ""):
        values = default if isinstance(default, tuple) else (default,)
        shown = " ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
        text += f" (default: {shown})"
    return _row(f"--{name} {_takes(str(option.annotation))}", text)


def _takes(annotation: str) -> str:
    """Return a placeholder for the value of an option of some type."""
    if "bool | str" in annotation:
        return "true|PATH"
    several = " ..." if annotation.startswith("Sequence") else ""
    for part, word in (
        ("int", "N"),
        ("float", "X"),
        ("dict", "{...}"),
        ("Data", "DATA"),
        ("Path", "PATH"),
        ("Like", "PATH"),
        ("bool", "true|false"),
    ):
        if part in annotation:
            return f"{word}{several}"
    return f"NAME{several}"


def _sections() -> Iterator[str]:
    """Yield the lines about the options of each stage of run."""
    from compressor.pipeline import SHARED

    verb_of: Mapping[str, str] = {home: verb for verb, home in VERBS.items()} | {EXPORT_MODEL: "export"}
    for section, home in SECTIONS.items():
        verb = verb_of[home]
        own = [name for name in signature(function_of(home)).parameters if name not in SHARED | GIVEN_BY[section]]
        if section == "export":
            own.append("qat_epochs")  # export's own option; it passes the others on
        text = f"{', '.join(own)}. See compressor help {verb}."
        yield f"{section}.OPTION, of {verb}:"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
        yield ""


def _row(head: str, text: str, indent: int = _INDENT) -> list[str]:
    """Return the lines of a name with a text beside it, or below it if the name is long."""
    below = len(head) > indent - 4
    margin = " " * indent
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    if below or not lines:
        return [f"  {head}", *lines]
    return [f"  {head}".ljust(indent) + lines[0][indent:], *lines[1:]]
