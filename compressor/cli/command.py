"""The command line: a thin layer over the verbs, whose signatures and docstrings are its options and help."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from compressor.cli.parsing import parser_of
from compressor.cli.printing import overview, print_hits, quieten
from compressor.cli.process import INTERRUPTED, silence
from compressor.cli.verbs import BAD_USAGE, DONE, GATE_FAILED, GROUPS, USER_ERROR, VERBS
from compressor.cli.words import parted, with_leading
from export.report.validation import Report
from export.shipping import Exported, export_model
from zoo.arguments import require_given
from zoo.errors import RefusedError, UserError, did_you_mean, first_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 an error the user can mend, 2 bad usage, 3 the gate failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return DONE if words else BAD_USAGE
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("embedding-compressor"))
        return DONE
    verb, rest = parted(words)
    if verb in GROUPS and rest and rest[0] in ("-h", "--help"):
        print(f"usage: compressor {verb} {{{','.join(GROUPS[verb])}}} [options]")
        return DONE
    if verb not in VERBS:
        print(
            f"error: unknown command {verb!r}.{did_you_mean(verb, VERBS)} Known: {', '.join(VERBS)}.", file=sys.stderr
        )
        return BAD_USAGE
    quieten()
    try:
        options = parser_of(verb).parse_args(with_leading(verb, rest))
        return _carry_out(verb, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or first_line(error)
        print(f"error: {where}{reason}. Check the path, its permissions and the free space.", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # how argparse ends: 0 after --help and --print_config, 2 after bad usage
        return int(stop.code or 0)


def _carry_out(verb: str, options: Namespace) -> int:
    options.pop("config", None)
    as_json, all_nodes = options.pop("json", False), options.pop("nodes", False)
    try:
        result = _call(verb, options)
    except RefusedError as error:
        from export.report.tables import print_candidates

        print_candidates(error.content)
        print(f"Refused: {error}", file=sys.stderr)
        return GATE_FAILED
    try:
        _show(verb, options, result, as_json, all_nodes)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; what was done is done
        silence()
    if isinstance(result, Report) and not result.passed:
        from export.report.content import gate_of

        print(gate_of(result.content)[1], file=sys.stderr)
        return GATE_FAILED
    return DONE


def _show(verb: str, options: Namespace, result: Any, as_json: bool, all_nodes: bool) -> None:
    """Print what a verb found or wrote, but for a gate that failed."""
    if isinstance(result, Report):
        from export.report.content import gate_of
        from export.report.tables import print_table

        print_table(result.content)
        print(f"Report: {result.folder / 'report.html'}")
        state, sentence = gate_of(result.content)
        if state == "passed":
            print(sentence)
    elif isinstance(result, Exported):
        if result.candidates is not None:
            from export.report.tables import print_candidates

            print_candidates(result.candidates)
        print("Done:", *result.files.values())
    elif verb == "bench":
        from export.report.tables import print_bench

        print_bench(result)
    elif verb == "inspect":
        from export.report.tables import print_inspection

        print(json.dumps(result, indent=2)) if as_json else print_inspection(result, all_nodes)
    elif verb == "index search":
        print_hits([str(query) for query in options.queries], result, as_json)
    else:
        print(f"Done: {result}")


def _call(verb: str, options: Namespace) -> Any:
    given = {name: _plain(value) for name, value in options.items(branches=True) if "." not in name}
    if any(":" in str(part.get("loss")) for part in (given, *given.values()) if isinstance(part, dict)):
        sys.path.append(str(Path.cwd()))  # where a loss of one's own may lie; last, so that it shadows nothing
    for function in (VERBS[verb], *([export_model] if verb == "export" else [])):
        require_given(function, given)
    return VERBS[verb](**given)


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value
