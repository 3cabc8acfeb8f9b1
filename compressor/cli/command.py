"""The command line: a thin layer over the verbs; their signatures and docstrings are its options and help."""

from __future__ import annotations

import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.cli.help import help_of, help_of_group, overview
from compressor.cli.manners import Manners, heard, manners_in, tell
from compressor.cli.process import INTERRUPTED, silence
from compressor.cli.verbs import (
    BAD_USAGE,
    DONE,
    EXPORT_MODEL,
    GATE_FAILED,
    GROUPS,
    NEEDS_TRAIN,
    USER_ERROR,
    VERBS,
    function_of,
)
from zoo.errors import RefusedError, UserError, did_you_mean, first_line

if TYPE_CHECKING:
    from jsonargparse import Namespace

log = logging.getLogger(__name__)

_HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 an error the user can fix, 2 bad usage, 3 a gate failed, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        manners, words = manners_in(given)
    except UserError as error:
        tell(f"error: {error}")
        return BAD_USAGE
    answer = _answer(words)
    if answer is not None:
        return answer
    try:
        with heard(manners):
            if manners.log_file is not None:
                log.info("compressor %s", shlex.join(given), extra={"told": True})
            return _run(words, manners)
    except OSError as error:  # the log file cannot be opened
        tell(f"error: {_of_system(error)}")
        return USER_ERROR


def _answer(words: list[str]) -> int | None:
    """Print help or version if asked for, or an error, and return the exit code; None if there is a verb to run."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in _HELP:
        print(overview())
        return DONE if words else BAD_USAGE
    if words[0] in ("version", "--version"):
        from importlib.metadata import version

        print(version("embedding-compressor"))
        return DONE
    verb, rest = split_verb(words)
    if verb in GROUPS and (not rest or rest[0] in _HELP):
        print(help_of_group(verb))
        return DONE if rest else BAD_USAGE
    if verb not in VERBS:
        unknown = " ".join(words[:2]) if verb in GROUPS else verb
        tell(f"error: unknown command {unknown!r}.{did_you_mean(unknown, VERBS)} Known: {', '.join(VERBS)}.")
        return BAD_USAGE
    if any(word in _HELP for word in rest):
        print(help_of(verb))
        return DONE
    return None


def split_verb(words: list[str]) -> tuple[str, list[str]]:
    """Split the verb, of one or two words, from the words after it."""
    count = 2 if " ".join(words[:2]) in VERBS else 1
    return " ".join(words[:count]), words[count:]


def _run(words: list[str], manners: Manners) -> int:
    """Run a verb, and turn errors into a message and an exit code."""
    from compressor.cli.parsing import parser_of
    from compressor.cli.words import with_leading
    from zoo.extras import is_of_an_extra, missing

    verb, rest = split_verb(words)
    try:
        options = parser_of(verb).parse_args(with_leading(verb, rest))
        return _carry_out(verb, options, manners)
    except UserError as error:
        return _failed(str(error), manners)
    except ModuleNotFoundError as error:
        if not is_of_an_extra(error.name):
            raise
        return _failed(str(missing(verb, error.name or "")), manners)
    except OSError as error:
        return _failed(_of_system(error), manners)
    except KeyboardInterrupt as stop:
        tell(str(stop) or "Interrupted.")
        return INTERRUPTED
    except SystemExit as stop:  # how argparse ends: 0 after --print_config, 2 after bad usage
        return int(stop.code or 0)


def _failed(reason: str, manners: Manners) -> int:
    if manners.verbose:
        traceback.print_exc()
    tell(f"error: {reason}")
    return USER_ERROR


def _of_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or first_line(error)}. Check the path, its permissions and the free space."


def _carry_out(verb: str, options: Namespace, manners: Manners) -> int:
    from compressor.cli.printing import show, show_candidates, show_json

    options.pop("config", None)
    all_nodes = options.pop("nodes", False)
    queries = options.get("queries", ())
    try:
        result = _call(verb, options)
    except RefusedError as error:
        content = error.content  # Python deletes the name error after this block
        if manners.json:
            _print(lambda: show_json(content))
        elif "candidates" in content:
            _print(lambda: show_candidates(content))
        tell(f"Refused: {error}")
        return GATE_FAILED
    state, sentence = _gate(result)

    def show_all() -> None:
        show_json(result, queries) if manners.json else show(verb, result, queries, all_nodes)
        if state == "passed" and not manners.json:
            print(sentence)

    _print(show_all)
    if state == "failed":
        tell(sentence)
        return GATE_FAILED
    return DONE


def _print(what: Callable[[], None]) -> None:
    """Print to standard output; if its reader is gone, go on silently, since the work is done."""
    try:
        what()
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _gate(result: Any) -> tuple[str, str]:
    """Return the state of a result's gate, "passed", "failed" or "none", and a sentence about it."""
    from export.report.content import gate_of
    from export.report.validation import Report
    from zoo.data.checking.findings import Check

    if isinstance(result, Report):
        return gate_of(result.content)
    if isinstance(result, Check):
        return "passed" if result.passed else "failed", result.verdict
    return "none", ""


def _call(verb: str, options: Namespace) -> Any:
    from zoo.arguments import require_given
    from zoo.extras import require_extra

    if verb in NEEDS_TRAIN:
        require_extra("train", verb)
    given = {name: _plain(value) for name, value in options.items(branches=True) if "." not in name}
    if any(":" in str(part.get("loss")) for part in (given, *given.values()) if isinstance(part, dict)):
        sys.path.append(str(Path.cwd()))  # it may have the user's own loss; last, so that it shadows nothing
    for home in (VERBS[verb], *([EXPORT_MODEL] if verb == "export" else [])):
        require_given(function_of(home), given)
    return function_of(VERBS[verb])(**given)


def _plain(value: Any) -> Any:
    return value.as_dict() if hasattr(value, "as_dict") else value
