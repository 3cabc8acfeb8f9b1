"""Finished runs as lines of a file, so that a benchmark goes on where it stopped; and their means over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
        found = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in found if all(line[name] == value for name, value in values.items())]

    def add(self, line: dict[str, Any]) -> None:
        """Append a run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


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
    if len(lines) < len(grid):
        raise SystemExit(f"{values} has {len(lines)} of {len(grid)} runs in {tuning.path}; run --tune first.")
    options: dict[str, Any] = max(lines, key=score)["options"]
    return options


def spread(values: list[float], decimals: int = 2) -> str:
    """Return the mean, with the standard deviation of a sample where there are several values."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{decimals}f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean; not a number for a single value."""
    if len(values) < 2:
        return float("nan")
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def made_with(line: dict[str, Any]) -> str:
    """Return a sentence on the machine and the versions that a run was made with."""
    machine = line["machine"]
    return f"Machine: {machine['processor']}, {machine['cores']} cores. Versions: {json.dumps(line['versions'])}."
