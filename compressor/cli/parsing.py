"""The parser of a verb, made of its signature and docstring."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, get_loader, set_loader
from yaml import YAMLError

from compressor.cli.verbs import BAD_USAGE, LEADING, SECTIONS, VERBS, summary
from compressor.distillation import distill
from compressor.int8_finish.shipping import ship
from compressor.pipeline import SHARED
from export.report.validation import validate
from export.shipping import export_model
from zoo.errors import did_you_mean
from zoo.training.train import train

_read_yaml = get_loader("yaml")


def _read_value(text: str) -> Any:
    """Return what an option's text means: a list in JSON, as it is made of words, or YAML.

    YAML's reader refuses names of files that are not UTF-8, which reach Python as lone surrogates, however written.
    """
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return _read_yaml(text)


set_loader("yaml", _read_value, (YAMLError,))

_NOT_IN_SHELL = {"run": set(SECTIONS)}


class Parser(ArgumentParser):
    """Says what is wrong in a line or two, where argparse would print every option first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = {action.dest for action in self._actions}
        group = re.search(r"Group '([\w.]+)'", message)
        hint = ""
        for name in re.findall(r"(?:--|[Oo]ption '|key ')([\w.]+)", message):
            unknown = f"{group[1]}.{name}" if group else name
            if unknown not in known:
                hint = did_you_mean(unknown, known)
                break
        lines = [line.strip() for line in message.strip().splitlines()]
        if re.match(r"unrecognized arguments: [^-]", lines[0]):
            hint = " Words without an option's name come right after the command."
        print(f"error: {' '.join(lines)[:500]}{hint and '.'}{hint}", file=sys.stderr)
        print(f"{self.prog} --help lists the options.", file=sys.stderr)
        sys.exit(BAD_USAGE)


def parser_of(verb: str) -> ArgumentParser:
    """Build the parser of one verb from its signature and docstring."""
    leading = " ".join(name.upper() for name in LEADING[verb])
    parser = Parser(
        prog=f"compressor {verb}",
        description=f"{summary(VERBS[verb])} Short form: compressor {verb} {leading} [options].",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(VERBS[verb], as_group=False, skip=_skip(_NOT_IN_SHELL.get(verb, set())))
    if verb == "index search":
        parser.add_argument("--json", action="store_true", help="Print JSON.")
    if verb == "run":
        parser.add_function_arguments(train, "teacher", skip=_skip(SHARED))
        parser.add_function_arguments(distill, "student", skip=_skip(SHARED | {"teacher"}))
        parser.add_function_arguments(export_model, "export", skip=_skip(SHARED | {"model", "before"}))
        skipped = _skip(SHARED | {"model", "teacher", "loss"})
        parser.add_function_arguments(ship, "export", as_group=False, skip=skipped)
        parser.add_function_arguments(validate, "report", skip=_skip(SHARED | {"models", "teacher"}))
    if verb == "export":
        parser.add_function_arguments(export_model, as_group=False, skip={"model", "out", "before"})
    if verb == "inspect":
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--nodes", action="store_true", help="Name all nodes that compute in float.")
    return parser


def _skip(names: Iterable[str]) -> set[str | int]:
    return set(names)
