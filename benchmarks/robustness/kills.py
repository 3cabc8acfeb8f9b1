"""Verbs killed at any point and run again: the result must be bit for bit that of an undisturbed run.

    python -m benchmarks.robustness.kills --points 60

Each verb that writes runs once undisturbed. Then it is killed (SIGKILL) at points spread over its duration, half of
them just before a file or folder changes, the others at a given time, and run again in the same folder. The result is
compared file by file with the undisturbed one, except training logs, which show the resume.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.robustness.outcomes import DIFFERENT, REFUSED, WORKED, failed
from benchmarks.robustness.trials import (
    Ended,
    Verb,
    carried_out,
    counting,
    differing,
    killed_at,
    prepare,
    tree_of,
    tried,
)

_WEIGHTS = {"train": 3, "distill": 2, "export": 2, "export, with a finish": 2, "validate": 2, "run": 3}
_WEIGHTS |= {"distill, stored views": 2, "demo-web": 2, "export, for hubs": 2}
"""Relative number of points by verb, 1 if not listed: higher for verbs with more work to lose."""


def trial(verb: Verb, expected: Ended, tree: dict[str, str], at: int | float, log: Path) -> tuple[str, str]:
    """Kill a verb once and run it again.

    Args:
        verb: what to run.
        expected: how the undisturbed run ended.
        tree: the files it wrote.
        at: when to kill it: an int is a number of changes to files, a float is seconds.
        log: file for its output.

    Returns:
        The outcome, and a message about it.
    """
    shutil.rmtree(verb.out, ignore_errors=True)
    by_change = isinstance(at, int)
    killed = carried_out(verb.words, log, killed_at(int(at)) if by_change else None, None if by_change else at)
    left = tree_of(verb.out)
    again = carried_out(verb.words, log)
    found = tree_of(verb.out)
    was = f"killed with {killed.code} and {len(left)} files, then {again.code} in {again.seconds:.1f} s"
    if again.fault:
        return again.fault[0], f"{was}: {again.fault[1]}"
    if again.code != expected.code:
        return REFUSED, f"{was}: {again.said[-300:]}"
    if found != tree:
        return DIFFERENT, f"{was}: {differing(found, tree)}"
    return WORKED, was


def points_of(changes: int, seconds: float, count: int) -> list[int | float]:
    """Return evenly spread points to kill a verb at: every other one is a change of a file, if any, the rest times."""
    points: list[int | float] = []
    for place in range(count):
        share = (place + 0.5) / count
        points.append(max(1, round(share * changes)) if place % 2 and changes else round(share * seconds, 3))
    return points


def run(folder: Path, points: int, only: list[str]) -> dict[str, Counter[str]]:
    """Kill all verbs, print each outcome, and return the outcomes by verb."""
    log, counted = folder / "log.txt", folder / "changes.txt"
    verbs = prepare(folder, log)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, verb in verbs.items():
        if only and name not in only:
            continue
        expected = carried_out(verb.words, log, before=counting(counted))
        tree, changes = tree_of(verb.out), int(counted.read_text() or 0)
        if expected.has_traceback or (not tree and name != "check"):
            raise SystemExit(f"{name} undisturbed ended with {expected.code}: {expected.said[-2000:]}")
        shutil.rmtree(verb.out, ignore_errors=True)
        seconds = carried_out(verb.words, log).seconds  # the first run was slower
        if tree_of(verb.out) != tree:
            raise SystemExit(f"{name} undisturbed is not the same twice.")
        share = _WEIGHTS.get(name, 1) / sum(_WEIGHTS.get(each, 1) for each in verbs)
        count = max(2, round(points * share + 0.4))
        for at in points_of(changes, seconds, count):
            outcome, said = trial(verb, expected, tree, at, log)
            found[name][outcome] += 1
            where = f"change {at} of {changes}" if isinstance(at, int) else f"{at:.2f} s of {seconds:.2f}"
            print(f"{name}, {where}: {outcome}; {said}", flush=True)
        shutil.rmtree(verb.out, ignore_errors=True)
    return found


def main() -> int:
    """Run the benchmark, print and store the table; return 1 if a verb did not end like its undisturbed run."""
    found = tried("kills", __doc__ or "", 60, "about how often a verb is killed, all verbs together", run)
    return int(failed(found) or any(counts[REFUSED] for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
