"""Finished runs as lines of a file, so that a benchmark continues where it stopped; and their means over seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from zoo.errors import DivergedError
from zoo.models.embedding import fastest_device
from zoo.versions import machine, versions

Options = dict[str, Any]
Settings = dict[str, Any]


class Results:
    """Finished runs, one JSON object per line, in the order they finished.

    Args:
        path: the ``.jsonl`` file; created with the first run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, **values: Any) -> list[dict[str, Any]]:
        """Return the runs that have these values."""
        if not self.path.is_file():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a line whose writing was interrupted
                found.append(json.loads(text))
        return [line for line in found if all(line.get(name) == value for name, value in values.items())]

    def add(self, line: dict[str, Any]) -> None:
        """Append a run, with machine, device and versions."""
        line = {"machine": machine(), "device": _device(), "versions": versions()} | line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.is_file() else b""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (not before.endswith(b"\n") and bool(before)) + json.dumps(line) + "\n")


class GridSearch:
    """A grid of options for one method: its tuning runs, and the best of them.

    Args:
        tuning: the file of tuning runs.
        grid: the sets of options.
        settings_of: returns all settings of the run with these options.
        score: returns the score of a run; higher is better.
        values: values that identify this method's runs.
    """

    def __init__(
        self,
        tuning: Results,
        grid: list[Options],
        settings_of: Callable[[Options], Settings],
        score: Callable[[dict[str, Any]], float],
        **values: Any,
    ) -> None:
        self.tuning = tuning
        self.grid = grid
        self.settings_of = settings_of
        self.score = score
        self.values = values

    def run(self, run: Callable[[Settings], dict[str, Any]]) -> None:
        """Run the options that were not tried yet; if training diverges, that is recorded as the result.

        Args:
            run: takes all settings, and returns the other values of the line.
        """
        for options in self.grid:
            settings = self.settings_of(options)
            known = self.values | {"settings": digest_of(settings)}
            if self.tuning.lines(**known):
                continue
            line = known | {"options": options, "run": settings}
            try:
                line |= run(settings)
            except DivergedError as error:
                line["error"] = str(error)
            self.tuning.add(line)

    def lines(self) -> list[dict[str, Any]]:
        """Return the runs of this grid that were made with the current settings."""
        found = current(self.tuning.lines(**self.values), map(self.settings_of, self.grid))
        return list({line["settings"]: line for line in found}.values())  # two processes may have made the same run

    def best(self) -> Options:
        """Return the options with the highest score; exits if some were not tried yet, or all failed."""
        lines = self.lines()
        if len(lines) < len(self.grid):
            found = f"{self.values} has {len(lines)} of {len(self.grid)} runs"
            raise SystemExit(f"{found} in {self.tuning.path}; run --tune first.")
        finished = [line for line in lines if "error" not in line]
        if not finished:
            found = f"{self.values}: none of {len(self.grid)} runs"
            raise SystemExit(f"{found} in {self.tuning.path} finished. Choose another grid.")
        options: Options = max(finished, key=self.score)["options"]
        return options

    def chose(self, options: Options | None) -> bool:
        """Return whether all options were tried and these are the best."""
        return self._all_tried() and options == self.best()

    def with_best(
        self, lines: list[dict[str, Any]], settings_of: Callable[[Options], Settings] | None = None
    ) -> list[dict[str, Any]]:
        """Return the runs that were made with the best options; empty until all options are tried.

        Args:
            lines: runs other than tuning runs.
            settings_of: returns all settings of those runs, if they differ from those of tuning.
        """
        if not lines or not self._all_tried():
            return []
        return current(lines, [(settings_of or self.settings_of)(self.best())])

    def _all_tried(self) -> bool:
        return len(self.lines()) == len(self.grid)


def digest_of(settings: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits that change with the settings of a benchmark, so that old runs no longer count.

    The path of the data, the seed and the folder of the results do not count.
    """
    what = {name: value for name, value in settings.items() if name not in ("data", "seed", "out")}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def current(lines: list[dict[str, Any]], settings: Iterable[Settings]) -> list[dict[str, Any]]:
    """Return the runs that were made with one of these settings, without runs of former settings."""
    digests = {digest_of(each) for each in settings}
    return [line for line in lines if line["settings"] in digests]


def grouped(
    lines: Iterable[dict[str, Any]], name: str, score: Callable[[dict[str, Any]], float]
) -> dict[str, list[float]]:
    """Return the scores of the runs in percent, grouped by the value of a field, in their order."""
    groups: dict[str, list[float]] = {}
    for line in lines:
        groups.setdefault(line[name], []).append(100 * score(line))
    return groups


def recall_at_1(line: dict[str, Any]) -> float:
    """Return a run's Recall@1 on the test classes."""
    recall: float = line["recall"]["1"]
    return recall


def percent(line: dict[str, Any], score: Callable[[dict[str, Any]], float]) -> str:
    """Return the score of a tuning run in percent, or "failed"."""
    return "failed" if "error" in line else f"{100 * score(line):.2f}"


def spread(values: list[float], decimals: int = 2) -> str:
    """Return the mean, with the sample standard deviation if there are several values."""
    text = f"{fmean(values):.{decimals}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{decimals}f}"


def in_points(share: float, interval: Sequence[float], form: str = ".2f") -> str:
    """Return a difference and its interval, given as fractions, in percentage points."""
    low, high = interval
    return f"{100 * share:{form}} [{100 * low:{form}}, {100 * high:{form}}]"


def gain(differences: list[float]) -> str:
    """Return the mean difference between runs of the same seeds, with its standard error if there are several."""
    if not differences:
        return ""
    text = f"{fmean(differences):+.2f}"
    return text if len(differences) == 1 else f"{text} ± {stdev(differences) / len(differences) ** 0.5:.2f}"


def gain_over(base: list[dict[str, Any]], found: list[dict[str, Any]], score: Callable[[dict[str, Any]], float]) -> str:
    """Return by how many points runs are ahead of the base's runs of the same seeds, in the form of :func:`gain`.

    Args:
        base: lines of runs, one per seed.
        found: likewise; seeds that the base lacks do not count.
        score: returns the score of a line, in [0, 1].
    """
    theirs = {line["seed"]: score(line) for line in base}
    return gain([100 * (score(line) - theirs[line["seed"]]) for line in found if line["seed"] in theirs])


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def made_with(lines: list[dict[str, Any]]) -> str:
    """Return a sentence for each machine, device and set of versions of the runs."""
    sentences = []
    for line in lines:
        on = f", {line['device']}" if line.get("device", "cpu") != "cpu" else ""
        machine = f"{line['machine']['processor']}, {line['machine']['cores']} cores{on}"
        sentences.append(f"Machine: {machine}. Versions: {json.dumps(line['versions'])}.")
    return " ".join(dict.fromkeys(sentences))


def _device() -> str:
    device = fastest_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
