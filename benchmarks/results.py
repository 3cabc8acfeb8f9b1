"""Finished runs as lines of a file, so that a benchmark goes on where it stopped; and their means over seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import UserError


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
        """Append a run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.is_file() else b""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (not before.endswith(b"\n") and bool(before)) + json.dumps(line) + "\n")


def try_options(
    tuning: Results, grid: list[dict[str, Any]], run: Callable[[int, dict[str, Any]], dict[str, Any]], **values: Any
) -> None:
    """Run the options of a grid that were not tried yet; those that fail, as by diverging, are noted with the error.

    Args:
        tuning: where a line goes for each: ``values``, the ``options``, and what the run returns.
        grid: the options.
        run: takes the place in the grid and the options.
        values: what tells these runs from others.
    """
    for number, options in enumerate(grid):
        if tuning.lines(options=options, **values):
            continue
        line = values | {"options": options}
        try:
            line |= run(number, options)
        except UserError as error:
            line["error"] = str(error)
        tuning.add(line)


def digest_of(settings: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits that change when the settings of a benchmark do, so that old runs count no more.

    Where the data lies, the seed and the folder of the results do not count.
    """
    what = {name: value for name, value in settings.items() if name not in ("data", "seed", "out")}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def best_options(
    tuning: Results, grid: list[dict[str, Any]], score: Callable[[dict[str, Any]], float], **values: Any
) -> dict[str, Any]:
    """Return the options of the grid that scored highest; ends the program where some of them were not tried yet.

    Args:
        tuning: runs with their ``options``.
        grid: the options to choose from.
        score: of a run, higher is better.
        values: what else the runs must have.
    """
    lines = [line for line in tuning.lines(**values) if line["options"] in grid]
    tried = [options for options in grid if any(line["options"] == options for line in lines)]
    if len(tried) < len(grid):
        raise SystemExit(f"{values} has {len(tried)} of {len(grid)} runs in {tuning.path}; run --tune first.")
    finished = [line for line in lines if "error" not in line]
    if not finished:
        raise SystemExit(f"{values}: none of {len(grid)} runs in {tuning.path} finished. Choose another grid.")
    options: dict[str, Any] = max(finished, key=score)["options"]
    return options


def percent(line: dict[str, Any], score: Callable[[dict[str, Any]], float]) -> str:
    """Return the score of a tuning run in percent, or that it failed."""
    return "failed" if "error" in line else f"{100 * score(line):.2f}"


def spread(values: list[float], decimals: int = 2) -> str:
    """Return the mean, with the standard deviation of a sample where there are several values."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{decimals}f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def gain(differences: list[float]) -> str:
    """Return the mean of the differences between runs of the same seeds, with its standard error where it has one."""
    if not differences:
        return ""
    mean = sum(differences) / len(differences)
    if len(differences) == 1:
        return f"{mean:+.2f}"
    variance = sum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    return f"{mean:+.2f} ± {(variance / len(differences)) ** 0.5:.2f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def made_with(line: dict[str, Any]) -> str:
    """Return a sentence on the machine and the versions that a run was made with."""
    machine = line["machine"]
    return f"Machine: {machine['processor']}, {machine['cores']} cores. Versions: {json.dumps(line['versions'])}."
