"""Finished runs as lines of a file, so that a benchmark goes on where it stopped; and their means over seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from zoo.embedding import fastest_device
from zoo.errors import DivergedError
from zoo.versions import machine, versions

Options = dict[str, Any]
Settings = dict[str, Any]


class Results:
    """Finished runs, one JSON object a line, in the order they finished.

    Args:
        path: the ``.jsonl`` file; made with the first run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, **values: Any) -> list[dict[str, Any]]:
        """Return the runs that have these values."""
        if not self.path.is_file():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last one, where a run was killed in writing it
                found.append(json.loads(text))
        return [line for line in found if all(line.get(name) == value for name, value in values.items())]

    def add(self, line: dict[str, Any]) -> None:
        """Append a run, with the machine, the device and the versions it was made with."""
        line = {"machine": machine(), "device": _device(), "versions": versions()} | line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.is_file() else b""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (not before.endswith(b"\n") and bool(before)) + json.dumps(line) + "\n")


def tune(
    tuning: Results,
    grid: list[Options],
    settings_of: Callable[[Options], Settings],
    run: Callable[[Settings], dict[str, Any]],
    **values: Any,
) -> None:
    """Run the options of a grid that were not tried yet; where training diverges, that is noted as its result.

    Args:
        tuning: where a line goes for each: ``values``, the ``options``, all settings, and what the run returns.
        grid: the options.
        settings_of: all settings of the run with these options.
        run: takes the settings.
        values: what tells these runs from others.
    """
    for options in grid:
        settings = settings_of(options)
        known = values | {"settings": digest_of(settings)}
        if tuning.lines(**known):
            continue
        line = known | {"options": options, "run": settings}
        try:
            line |= run(settings)
        except DivergedError as error:
            line["error"] = str(error)
        tuning.add(line)


def digest_of(settings: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits that change when the settings of a benchmark do, so that old runs count no more.

    Where the data lies, the seed and the folder of the results do not count.
    """
    what = {name: value for name, value in settings.items() if name not in ("data", "seed", "out")}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def best_options(
    tuning: Results,
    grid: list[Options],
    settings_of: Callable[[Options], Settings],
    score: Callable[[dict[str, Any]], float],
    **values: Any,
) -> Options:
    """Return the options of the grid that scored highest; ends the program where some of them were not tried yet.

    Args:
        tuning: runs with their ``options``.
        grid: the options to choose from.
        settings_of: all settings of the run with these options.
        score: of a run, higher is better.
        values: what else the runs must have.
    """
    found = current(tuning.lines(**values), [settings_of(options) for options in grid])
    lines = {line["settings"]: line for line in found}  # two processes may have made the same
    if len(lines) < len(grid):
        raise SystemExit(f"{values} has {len(lines)} of {len(grid)} runs in {tuning.path}; run --tune first.")
    finished = [line for line in lines.values() if "error" not in line]
    if not finished:
        raise SystemExit(f"{values}: none of {len(grid)} runs in {tuning.path} finished. Choose another grid.")
    options: Options = max(finished, key=score)["options"]
    return options


def current(lines: list[dict[str, Any]], settings: Iterable[Settings]) -> list[dict[str, Any]]:
    """Return the runs that were made with one of these settings, so that those of former ones are in no table."""
    digests = {digest_of(each) for each in settings}
    return [line for line in lines if line["settings"] in digests]


def percent(line: dict[str, Any], score: Callable[[dict[str, Any]], float]) -> str:
    """Return the score of a tuning run in percent, or that it failed."""
    return "failed" if "error" in line else f"{100 * score(line):.2f}"


def spread(values: list[float], decimals: int = 2) -> str:
    """Return the mean, with the standard deviation of a sample where there are several values."""
    text = f"{fmean(values):.{decimals}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{decimals}f}"


def gain(differences: list[float]) -> str:
    """Return the mean of the differences between runs of the same seeds, with its standard error where it has one."""
    if not differences:
        return ""
    text = f"{fmean(differences):+.2f}"
    return text if len(differences) == 1 else f"{text} ± {stdev(differences) / len(differences) ** 0.5:.2f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def made_with(lines: list[dict[str, Any]]) -> str:
    """Return a sentence for each machine, device and set of versions that runs were made with."""
    sentences = []
    for line in lines:
        on = f", {line['device']}" if line.get("device", "cpu") != "cpu" else ""
        machine = f"{line['machine']['processor']}, {line['machine']['cores']} cores{on}"
        sentences.append(f"Machine: {machine}. Versions: {json.dumps(line['versions'])}.")
    return " ".join(dict.fromkeys(sentences))


def _device() -> str:
    device = fastest_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
