"""The command line: a thin layer over the verbs, whose signatures and docstrings are its options and help."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from compressor.distillation import distill
from compressor.pipeline import SHARED, run
from compressor.shipping import ship
from export.benchmark import bench
from export.index import Hit, build_index, search_index
from export.inspection import inspect
from export.shipping import Exported, export_model
from export.validation import Report, validate
from zoo.errors import RefusedError, UserError, did_you_mean
from zoo.training import train

DONE, USER_ERROR, BAD_USAGE, GATE_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

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
# Options that may be given as plain words right after the verb, in this order; a list takes all of them.
_LEADING = {
    "train": ["data"],
    "distill": ["teacher"],
    "export": ["model", "path"],
    "validate": ["models"],
    "run": ["config"],
    "bench": ["files"],
    "inspect": ["file"],
    "index build": ["model", "gallery", "out"],
    "index search": ["index", "queries"],
}
_LISTS = {"models", "files", "queries"}
_SECTIONS: dict[str, Callable[..., Any]] = {  # of the verb run
    "teacher": train,
    "student": distill,
    "export": export_model,
    "report": validate,
}
_NOT_IN_SHELL = {"run": set(_SECTIONS)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 an error the user can mend, 2 bad usage, 3 the gate failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return DONE if words else BAD_USAGE
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("embedding-compressor"))
        return DONE
    verb, rest = _split(words)
    if verb not in VERBS:
        print(
            f"error: unknown command {verb!r}.{did_you_mean(verb, VERBS)} Known: {', '.join(VERBS)}.", file=sys.stderr
        )
        return BAD_USAGE
    quieten()
    sys.path.insert(0, str(Path.cwd()))  # for losses of one's own, as python -m does
    try:
        options = parser_of(verb).parse_args(_with_leading(verb, rest))
        return _carry_out(verb, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # how argparse ends: 0 after --help and --print_config, 2 after bad usage
        return int(stop.code or 0)


def parser_of(verb: str) -> ArgumentParser:
    """Build the parser of one verb from its signature and docstring."""
    leading = " ".join(name.upper() for name in _LEADING[verb])
    parser = ArgumentParser(
        prog=f"compressor {verb}",
        description=f"{_summary(VERBS[verb])} Short form: compressor {verb} {leading} [options].",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(VERBS[verb], as_group=False, skip=_skip(_NOT_IN_SHELL.get(verb, set())))
    if verb == "index search":
        parser.add_argument("--json", action="store_true", help="Print JSON.")
    if verb == "run":
        parser.add_function_arguments(train, "teacher", skip=_skip(SHARED))
        parser.add_function_arguments(distill, "student", skip=_skip(SHARED | {"teacher"}))
        parser.add_function_arguments(export_model, "export", skip=_skip(SHARED | {"model", "path", "before"}))
        skipped = _skip(SHARED | {"model", "path", "teacher"})
        parser.add_function_arguments(ship, "export", as_group=False, skip=skipped)
        parser.add_function_arguments(validate, "report", skip=_skip(SHARED | {"models", "teacher"}))
    if verb == "export":
        parser.add_function_arguments(export_model, as_group=False, skip={"model", "path", "before"})
    if verb == "inspect":
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--nodes", action="store_true", help="Name all nodes that compute in float.")
    return parser


def _skip(names: Iterable[str]) -> set[str | int]:
    return set(names)


def _carry_out(verb: str, options: Namespace) -> int:
    options.pop("config", None)
    as_json, all_nodes = options.pop("json", False), options.pop("nodes", False)
    try:
        result = _call(verb, options)
    except RefusedError as error:
        from export.tables import print_candidates

        print_candidates(error.content)
        print(f"Refused: {error}", file=sys.stderr)
        return GATE_FAILED
    if isinstance(result, Report):
        from export.report import print_table, retained

        print_table(result.content)
        print(f"Report: {result.folder / 'report.html'}")
        if not result.passed:
            gate, measure = result.content["gate"]["min_retention"], retained(result.content)
            print(f"Gate failed: a model keeps less than {gate:.1%} of the teacher's {measure}.", file=sys.stderr)
            return GATE_FAILED
    elif isinstance(result, Exported):
        if result.candidates is not None:
            from export.tables import print_candidates

            print_candidates(result.candidates)
        print("Done:", *result.files.values())
    elif verb == "bench":
        from export.tables import print_bench

        print_bench(result)
    elif verb == "inspect":
        from export.tables import print_inspection

        print(json.dumps(result, indent=2)) if as_json else print_inspection(result, all_nodes)
    elif verb == "index search":
        _print_hits([str(query) for query in options.queries], result, as_json)
    else:
        print(f"Done: {result}")
    return DONE


def _call(verb: str, options: Namespace) -> Any:
    return VERBS[verb](**{name: _plain(value) for name, value in options.items(branches=True) if "." not in name})


def _print_hits(queries: list[str], found: list[list[Hit]], as_json: bool) -> None:
    """Print query, rank, id and score of each image found, tabs between them."""
    of_each = list(zip(queries, found, strict=True))
    if as_json:
        print(json.dumps([{"query": query, "hits": [hit._asdict() for hit in hits]} for query, hits in of_each]))
        return
    for query, hits in of_each:
        for rank, hit in enumerate(hits, start=1):
            line = f"{query}\t{rank}\t{hit.id}\t{hit.score:.6f}"
            print(line.encode("utf-8", "replace").decode())  # names of files need not be valid Unicode


def _split(words: list[str]) -> tuple[str, list[str]]:
    """Part the verb, of one word or two, from what follows it."""
    count = 2 if " ".join(words[:2]) in VERBS else 1
    return " ".join(words[:count]), words[count:]


def _with_leading(verb: str, words: list[str]) -> list[str]:
    """Turn plain words after the verb into options, and dashes in options' names into underscores.

    ``export student model.onnx`` becomes ``--model=student --path=model.onnx``.
    """
    words = [_underscored(word) for word in words]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    plain, rest = words[:count], words[count:]
    names = _LEADING[verb]
    if names[-1] in _LISTS and len(plain) >= len(names):
        plain[len(names) - 1 :] = [json.dumps(plain[len(names) - 1 :])]
    rest = _with_lists_joined(verb, rest)
    options = [f"--{name}={word}" for name, word in zip(names, plain, strict=False)]
    if names == ["config"] and plain and not Path(plain[0]).is_file():
        raise UserError(f"Configuration {plain[0]} does not exist. Check the path; configs/ has examples.")
    return [*options, *plain[len(names) :], *rest]


def _with_lists_joined(verb: str, words: list[str]) -> list[str]:
    """Turn the values of options that take several numbers into one list.

    ``--threads 1 2`` becomes ``--threads=[1,2]``; so does ``--threads 1,2``.
    """
    parts = {"": VERBS[verb]}
    if verb == "run":
        parts |= {f"{name}.": part for name, part in _SECTIONS.items()}
    several = {
        f"--{prefix}{name}"
        for prefix, part in parts.items()
        for name, parameter in signature(part).parameters.items()
        if str(parameter.annotation).startswith("Sequence[int]")
    }
    joined: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in several:
            joined.append(f"{name}=[{value.strip('[]')}]" if equals and value != "null" else word)
        elif joined and joined[-1].partition("=")[0] in several and not word.startswith("--") and word != "null":
            before, _, values = joined[-1].partition("=")
            joined[-1] = f"{before}=[{','.join(filter(None, [values.strip('[],'), word.strip('[],')]))}]"
        else:
            joined.append(word)
    return joined


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _summary(verb: Callable[..., Any]) -> str:
    return (verb.__doc__ or "").strip().splitlines()[0]


def _overview() -> str:
    lines = [f"  {name:13} {_summary(verb)}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"usage: compressor {{{','.join(VERBS)}}} [options]",
            "",
            "Make an image-retrieval model small enough to ship, and prove that it still retrieves.",
            "",
            *lines,
            "",
            "compressor COMMAND --help lists the options; all are YAML keys too (--config FILE, --print_config).",
            "Exit codes: 0 done, 1 an error you can mend, 2 bad usage, 3 a gate failed: retention, or int8's recall.",
        ]
    )


def quieten() -> None:
    """Show our own messages plainly, and of the libraries warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("zoo", "compressor", "export"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
