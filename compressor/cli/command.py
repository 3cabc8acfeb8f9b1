"""The command line: a thin layer over the verbs, whose signatures and docstrings are its options and help."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from compressor.distillation import distill
from compressor.int8_finish.shipping import ship
from compressor.pipeline import SHARED, run
from export.benchmark.bench import bench
from export.index.verbs import Hit, build_index, search_index
from export.onnx.inspection import inspect
from export.report.validation import Report, validate
from export.shipping import Exported, export_model
from zoo.arguments import require_given
from zoo.errors import RefusedError, UserError, did_you_mean, first_line
from zoo.training.train import train

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
_GROUPS = {"index": ["build", "search"]}  # the first word of verbs of two
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
_EXAMPLES = {"teacher": "epochs", "student": "epochs", "export": "precision", "report": "min_retention"}
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
    if verb in _GROUPS and rest and rest[0] in ("-h", "--help"):
        print(f"usage: compressor {verb} {{{','.join(_GROUPS[verb])}}} [options]")
        return DONE
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


class _Parser(ArgumentParser):
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
    leading = " ".join(name.upper() for name in _LEADING[verb])
    parser = _Parser(
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
        from export.report.tables import print_candidates

        print_candidates(error.content)
        print(f"Refused: {error}", file=sys.stderr)
        return GATE_FAILED
    if isinstance(result, Report):
        from export.report.content import retained
        from export.report.tables import print_table

        print_table(result.content)
        print(f"Report: {result.folder / 'report.html'}")
        if not result.passed:
            gate, measure = result.content["gate"]["min_retention"], retained(result.content)
            print(f"Gate failed: a model keeps less than {gate:.1%} of the teacher's {measure}.", file=sys.stderr)
            return GATE_FAILED
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
        _print_hits([str(query) for query in options.queries], result, as_json)
    else:
        print(f"Done: {result}")
    return DONE


def _call(verb: str, options: Namespace) -> Any:
    given = {name: _plain(value) for name, value in options.items(branches=True) if "." not in name}
    for function in (VERBS[verb], *([export_model] if verb == "export" else [])):
        require_given(function, given)
    return VERBS[verb](**given)


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

    ``export student model.onnx`` becomes ``--model=student --path=model.onnx``. A configuration comes first, so that
    all other options go over it.
    """
    words = [_underscored(word) for word in words]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    plain, rest = words[:count], words[count:]
    names = _LEADING[verb]
    if names[-1] in _LISTS and len(plain) >= len(names):
        plain[len(names) - 1 :] = [_as_list(plain[len(names) - 1 :], of_numbers=False)]
    options = [f"--{name}={word}" for name, word in zip(names, plain, strict=False)]
    words = [*options, *plain[len(names) :], *_with_values_joined(verb, rest)]
    named = {word.partition("=")[0].removeprefix("--") for word in words}
    if verb == "validate" and "query_encoder" in named and not {"models", "config"} & named:
        words.append("--models=[]")  # a mixed pair is measured without others, too
    configs = [word for word in words if word.startswith("--config=")]
    for word in configs:
        _require_config(Path(word.removeprefix("--config=")), verb)
    for section in _sections(verb) & named:
        raise UserError(_no_section(section))
    return [*configs, *(word for word in words if word not in configs)]


def _sections(verb: str) -> set[str]:
    return set(_SECTIONS) if verb == "run" else set()


def _no_section(name: str) -> str:
    hint = " A teacher that is there already is given_teacher." if name == "teacher" else ""
    return f"{name} has options of its own, such as {name}.{_EXAMPLES[name]}; it is no option itself.{hint}"


def _require_config(path: Path, verb: str) -> None:
    """Refuse a configuration that is not there, or not YAML, by its name; what is in it is the parser's to judge."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"Configuration {path} does not exist. Check the path; configs/ has examples.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, or what is not UTF-8
        reason = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise UserError(f"Configuration {path} is not valid YAML ({reason}).") from error
    if not isinstance(content, dict):
        raise UserError(f"Configuration {path} holds no options. Write lines such as 'seed: 0'; configs/ has examples.")
    for section in _sections(verb) & content.keys():
        if not isinstance(content[section], dict | None):
            raise UserError(f"Configuration {path}: {_no_section(section)}")


def _with_values_joined(verb: str, words: list[str]) -> list[str]:
    """Turn the values of options that take several into one list, and a configuration and its option into one word.

    ``--threads 1 2`` becomes ``--threads=[1,2]``; so does ``--threads 1,2``.
    """
    parts = {"": VERBS[verb]}
    if verb == "run":
        parts |= {f"{name}.": part for name, part in _SECTIONS.items()}
    of_numbers = {
        f"--{prefix}{name}": str(parameter.annotation).startswith("Sequence[int]")
        for prefix, part in parts.items()
        for name, parameter in signature(part).parameters.items()
        if str(parameter.annotation).startswith("Sequence[")
    }
    joined: list[str] = []
    while words:
        end = next((i for i, word in enumerate(words) if i and word.startswith("--")), len(words))
        name, equals, value = words[0].partition("=")
        values = [value, *words[1:end]] if equals else words[1:end]
        if name in of_numbers and values:
            joined.append(f"{name}={_as_list(values, of_numbers[name])}")
        elif name == "--config" and values:
            joined += [f"--config={values[0]}", *values[1:]]
        else:
            joined += words[:end]
        words = words[end:]
    return joined


def _as_list(values: list[str], of_numbers: bool) -> str:
    """Write values as a list that the parser reads; leave null and what is a list already."""
    if len(values) == 1 and (values[0] == "null" or values[0].startswith("[")):
        return values[0]
    if of_numbers:
        return f"[{','.join(filter(None, [value.strip('[],') for value in values]))}]"
    return json.dumps(values, ensure_ascii=False)


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
