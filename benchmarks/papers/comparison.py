"""The runs for a paper's table: methods are tuned with the same budget, then compared over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import GridSearch, Options, Results, Settings, current, digest_of

HERE = Path(__file__).resolve().parent

Key = dict[str, str]
"""Values that identify a method's lines, such as ``{"setting": "self", "method": "rkd"}``."""
Run = Callable[[Settings], dict[str, Any]]
"""Takes all settings except data and seed, trains, and returns the other values of the line."""


class Comparison:
    """The runs of a table: those finished, those that count, and those still to make.

    A finished run is a line in a file and is not run again while its settings stay the same. A table has the runs with
    the current settings and the options that tuning found best.

    Args:
        name: name of the files in ``results``: ``NAME-tuning.jsonl``, ``NAME.jsonl``, ``NAME.md`` and ``NAME.png``.
        grid: returns the options to try for a method; empty for one that is not tuned.
        settings: returns all settings of a run with these options, except data and seed.
        score: returns the score of a run; higher is better.
        tuned_as: returns the method whose tuning a method shares.
    """

    def __init__(
        self,
        name: str,
        grid: Callable[[Key], list[Options]],
        settings: Callable[[Key, Options], Settings],
        score: Callable[[dict[str, Any]], float],
        tuned_as: Callable[[Key], Key] = lambda key: key,
    ) -> None:
        self.tuning = Results(HERE / "results" / f"{name}-tuning.jsonl")
        self.results = Results(HERE / "results" / f"{name}.jsonl")
        self.table, self.plot = (HERE / "results" / f"{name}.{ending}" for ending in ("md", "png"))
        self.grid = grid
        self.settings = settings
        self.score = score
        self.tuned_as = tuned_as

    def tune(self, key: Key, run: Run) -> None:
        """Run the options of a method that were not tried yet."""
        self._search(key).run(run)

    def compare(self, key: Key, run: Run, **values: Any) -> None:
        """Run a method with the options that tuning found best, unless it is in the results.

        Args:
            key: the method.
            run: trains and measures with given settings.
            values: other values that identify the line, such as the seed.
        """
        options = self._search(key).best() if self.grid(key) else {}
        settings = self.settings(key, options)
        known = key | values | {"settings": digest_of(settings)}
        if not self.results.lines(**known):
            self.results.add(known | {"options": options, "run": settings} | run(settings))

    def lines(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """Return the results of these methods that were made with the current settings and the options tuning chose."""
        found: list[dict[str, Any]] = []
        for key in keys:
            lines = self.results.lines(**key)
            if self.grid(key):
                found += self._search(key).with_best(lines, partial(self.settings, key))
            else:
                found += current(lines, [self.settings(key, {})])
        return found

    def tuning_lines(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """Return the tuning runs of these methods that were made with the current settings and grids."""
        return [line for key in keys if self.grid(key) for line in self._search(key).lines()]

    def write(self, text: str) -> None:
        """Write the table, and print it."""
        self.table.parent.mkdir(parents=True, exist_ok=True)
        self.table.write_text(text, encoding="utf-8")
        print(text)

    def _search(self, key: Key) -> GridSearch:
        tuned = self.tuned_as(key)
        return GridSearch(self.tuning, self.grid(tuned), partial(self.settings, tuned), self.score, **tuned)
