"""Translate the ways people write options (plain words after the verb, dashes, lists) to what the parser reads."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

from compressor.cli.verbs import LEADING, LISTS, SECTIONS, VERBS, function_of
from zoo.errors import UserError
from zoo.paths import given_path

_EXAMPLES = {"teacher": "epochs", "student": "epochs", "export": "precision", "report": "min_retention"}


def with_leading(verb: str, words: list[str]) -> list[str]:
    """Turn plain words after the verb into options, and dashes in option names into underscores.

    ``export student model.onnx`` becomes ``--model=student --out=model.onnx``. A configuration is moved to the front,
    so that all other options override it.
    """
    words = [_underscored(word) for word in words]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    plain, rest = words[:count], words[count:]
    names = LEADING[verb]
    if names[-1] in LISTS and len(plain) >= len(names):
        plain[len(names) - 1 :] = [_as_list(plain[len(names) - 1 :], of_numbers=False)]
    options = [f"--{name}={word}" for name, word in zip(names, plain, strict=False)]
    words = [*options, *plain[len(names) :], *_with_values_joined(verb, rest)]
    named = {word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    if verb == "validate" and "query_encoder" in named and not {"models", "config"} & named:
        words.append("--models=[]")  # a mixed pair can be measured without other models
    configs = [word for word in words if word.startswith("--config=")]
    for word in configs:
        _require_config(given_path(word.removeprefix("--config=")), verb)
    for section in _sections(verb) & named:
        raise UserError(_no_section(section))
    return [*configs, *(word for word in words if word not in configs)]


def _sections(verb: str) -> set[str]:
    return set(SECTIONS) if verb == "run" else set()


def _no_section(name: str) -> str:
    hint = " To use an existing teacher, set given_teacher." if name == "teacher" else ""
    return f"{name} has options of its own, such as {name}.{_EXAMPLES[name]}; it is no option itself.{hint}"


def _require_config(path: Path, verb: str) -> None:
    """Refuse a configuration that is missing or not YAML, naming the file; the parser checks its options."""
    from zoo.formats.yaml_document import read_yaml

    try:
        content = read_yaml(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"Configuration {path} does not exist. Check the path; configs/ has examples.") from error
    except ValueError as error:
        raise UserError(f"Configuration {path} is not valid YAML ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"Configuration {path} holds no options. Write lines such as 'seed: 0'; configs/ has examples.")
    for section in _sections(verb) & content.keys():
        if not isinstance(content[section], dict | None):
            raise UserError(f"Configuration {path}: {_no_section(section)}")


def _with_values_joined(verb: str, words: list[str]) -> list[str]:
    """Join an option and its values in one word: several values as a list, and a configuration with its file.

    ``--threads 1 2`` and ``--threads 1,2`` become ``--threads=[1,2]``. ``--strict`` alone becomes ``--strict=true``.
    """
    parts = {"": VERBS[verb]}
    if verb == "run":
        parts |= {f"{name}.": part for name, part in SECTIONS.items()}
    of_numbers = {
        f"--{prefix}{name}": str(parameter.annotation).startswith("Sequence[int]")
        for prefix, part in parts.items()
        for name, parameter in signature(function_of(part)).parameters.items()
        if str(parameter.annotation).startswith("Sequence[")
    }
    flags = {
        f"--{prefix}{name}"
        for prefix, part in parts.items()
        for name, parameter in signature(function_of(part)).parameters.items()
        if parameter.annotation == "bool"
    }
    joined: list[str] = []
    while words:
        end = next((i for i, word in enumerate(words) if i and word.startswith("--")), len(words))
        name, equals, value = words[0].partition("=")
        values = [value, *words[1:end]] if equals else words[1:end]
        if name in flags and not values:
            joined.append(f"{name}=true")
        elif name in of_numbers and values:
            joined.append(f"{name}={_as_list(values, of_numbers[name])}")
        elif name == "--config" and values:
            joined += [f"--config={values[0]}", *values[1:]]
        else:
            joined += words[:end]
        words = words[end:]
    return joined


def _as_list(values: list[str], of_numbers: bool) -> str:
    """Write values as a list for the parser; null and an existing list stay as they are."""
    if len(values) == 1 and (values[0] == "null" or values[0].startswith("[")):
        return values[0]
    if of_numbers:
        return f"[{','.join(filter(None, [value.strip('[],') for value in values]))}]"
    return json.dumps(values)


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
