"""The outcomes of many trials, as a table and as files beside this one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import made_with, markdown_table
from zoo.files import write_json, write_text
from zoo.versions import machine, versions

WORKED, REFUSED, TRACEBACK, HANG, OVER, DIFFERENT = (
    *("worked", "refused in one line", "traceback", "hang", "over 1 GB", "silently different"),
)
OUTCOMES = (WORKED, REFUSED, TRACEBACK, HANG, OVER, DIFFERENT)
"""All outcomes; the last four are unwanted."""

LIMIT = 2**30  # bytes of memory that a trial may take besides the modules it imports
_FOLDER = Path(__file__).parent
_TITLES = {
    "fuzz": "Broken, damaged and hostile files",
    "kills": "Killed at any point, and run again",
    "disk": "Full disks and read-only folders",
    "random_teachers": "Teachers that know nothing",
}


def table(
    found: Mapping[str, Counter[str]], names: Sequence[str], what: str, outcomes: Sequence[str] = OUTCOMES
) -> str:
    """Return outcomes as a Markdown table, with a row for each name and one for the total.

    Args:
        found: number of each outcome, by name.
        names: the rows.
        what: heading of the names.
        outcomes: the columns.
    """
    total: Counter[str] = sum((found.get(name, Counter()) for name in names), Counter())
    rows = [(name, found.get(name, Counter())) for name in names]
    cells = [
        [name, str(counts.total()), *(str(counts[outcome]) for outcome in outcomes)]
        for name, counts in (*rows, ("all", total))
    ]
    return "\n".join(markdown_table([what, "tried", *outcomes], cells))


def write(
    name: str,
    command: str,
    found: Mapping[str, Counter[str]],
    what: str,
    folder: Path = _FOLDER,
    outcomes: Sequence[str] = OUTCOMES,
) -> None:
    """Store the outcomes of a benchmark in ``results.json``, and the tables of all benchmarks in ``results.md``.

    Args:
        name: name of the benchmark: fuzz, kills, disk or random_teachers.
        command: the command that was run.
        found: number of each outcome, by row.
        what: heading of the rows.
        folder: folder of the files.
        outcomes: the columns.
    """
    file = folder / "results.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = {row: {outcome: counts[outcome] for outcome in outcomes} for row, counts in found.items()}
    kept[name] = {"command": command, "what": what, "rows": rows, "machine": machine(), "versions": versions()}
    write_json(file, kept)
    text = ["# Robustness", ""]
    for each in (title for title in _TITLES if title in kept):
        entry = kept[each]
        counted = {row: Counter(counts) for row, counts in entry["rows"].items()}
        text += [f"## {_TITLES[each]}", "", f"`{entry['command']}`", ""]
        columns = list(next(iter(entry["rows"].values())))
        text += [table(counted, list(counted), entry["what"], columns), "", made_with([entry]), ""]
    write_text(folder / "results.md", "\n".join(text))


def resident(key: str = "VmRSS") -> int:
    """Return the resident memory of this process in bytes, or its peak for the key VmHWM; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def failed(found: Mapping[str, Counter[str]]) -> bool:
    """Return whether there was an unwanted outcome."""
    return any(counts[outcome] for counts in found.values() for outcome in OUTCOMES[2:])
