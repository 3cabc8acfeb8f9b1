"""The parser of a verb, built from its signature and docstring."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, get_loader, set_loader
from yaml import YAMLError

from compressor.cli.manners import FLAGS, LOG_FILE, tell
from compressor.cli.verbs import BAD_USAGE, EXPORT_MODEL, GIVEN_BY, SECTIONS, VERBS, function_of
from zoo.errors import did_you_mean, shown

_read_yaml = get_loader("yaml")
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_WORDS |= {"dict": "options by name, such as {a: 1}", "NoneType": "null"}


def _read_value(text: str) -> Any:
    """Parse an option's text: a JSON list, as ``compressor.cli.words`` writes them, or YAML.

    The YAML reader refuses file names that are not UTF-8, which reach Python as lone surrogates, however written.
    """
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return _read_yaml(text)


set_loader("yaml", _read_value, (YAMLError,))


class Parser(ArgumentParser):
    """A parser without abbreviations, whose errors are one or two lines instead of argparse's whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = {action.dest for action in self._actions} | {*FLAGS, LOG_FILE}
        group = re.search(r"Group '([\w.]+)'", message)
        hint = ""
        for name in re.findall(r"(?:--|[Oo]ption '|key ')([\w.]+)", message):
            unknown = f"{group[1]}.{name}" if group else name
            if unknown not in known:
                hint = did_you_mean(unknown, known)
                break
        lines = [line.strip() for line in (_of_another_type(message) or message).strip().splitlines()]
        if re.match(r"unrecognized arguments: [^-]", lines[0]):
            hint = " Words without an option's name come right after the command."
        tell(f"error: {' '.join(lines)[:500]}{hint and '.'}{hint}\n{self.prog} --help lists the options.")
        sys.exit(BAD_USAGE)


def _of_another_type(message: str) -> str | None:
    """Return jsonargparse's message about a value of the wrong type in plain words; None for other messages."""
    key = re.match(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)\Z", message, re.DOTALL)
    types = re.findall(r"Expected a <class '(\w+)'>", message)
    if key is None or value is None or not types or not _WORDS.keys() >= set(types):
        return None
    ordered = sorted(set(types), key=list(_WORDS).index)
    return f"{key[1]} is {shown(value[1])}; it must be {' or '.join(_WORDS[each] for each in ordered)}."


def parser_of(verb: str) -> ArgumentParser:
    """Build the parser of one verb from its signature and docstring."""
    parser = Parser(prog=f"compressor {verb}", allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    sections = SECTIONS if verb == "run" else {}
    parser.add_function_arguments(function_of(VERBS[verb]), as_group=False, skip=_skip(sections))
    if sections:
        from compressor.pipeline import SHARED

        for section, home in sections.items():
            parser.add_function_arguments(function_of(home), section, skip=_skip(SHARED | GIVEN_BY[section]))
        skipped = _skip(SHARED | {"model", "teacher", "loss", "layout", "license", "report", "parity"})
        parser.add_function_arguments(function_of(VERBS["export"]), "export", as_group=False, skip=skipped)
    if verb == "validate":
        next(action for action in parser._actions if action.dest == "teacher").required = False  # null if left out
    if verb == "export":
        parser.add_function_arguments(function_of(EXPORT_MODEL), as_group=False, skip=_skip(GIVEN_BY["export"]))
    if verb == "inspect":
        parser.add_argument("--nodes", action="store_true", help="Name all nodes that compute in float.")
    return parser


def _skip(names: Iterable[str]) -> set[str | int]:
    return set(names)
