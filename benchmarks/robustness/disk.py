"""Verbs on a full disk, and in folders that cannot be written to: each ends in one line, and nothing is lost.

    python -m benchmarks.robustness.disk --points 8

Each verb that writes runs on its own disk (a tmpfs in a mount namespace, which needs Linux and the right to make one)
that is smaller than what it writes. It must end in one line, unless there was enough space after all. Then the disk
grows, the verb runs again in the same folder, and the result is compared file by file with that of an unlimited disk.
Last, on a read-only disk, finished work must be reused and a new folder refused.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.robustness.outcomes import DIFFERENT, REFUSED, TRACEBACK, WORKED, failed
from benchmarks.robustness.trials import Ended, Verb, carried_out, differing, prepare, tree_of, tried

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 16384, 1 << 18
_AMPLE = 2**30
_REUSED = ("train", "distill", "run")  # verbs that know their own finished work


def mount(folder: Path, size: int, flags: int = 0) -> None:
    """Mount a disk of ``size`` bytes on a folder; with ``_REMOUNT``, resize the one mounted there.

    Raises:
        OSError: the system does not allow it.
    """
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode())


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def apart(work: Callable[[], tuple[str, str]], answer: Path) -> tuple[str, str]:
    """Call ``work`` in a process with its own mounts, which end with it, and return its result."""
    process = os.fork()
    if process == 0:
        try:
            _call("unshare", _NEW_MOUNTS | (0 if os.geteuid() == 0 else _NEW_USER))
            _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
            answer.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit("A disk of its own could not be made; see above.")
    outcome, said = json.loads(answer.read_text())
    return outcome, said


def outcome_of(ended: Ended, expected: Ended) -> tuple[str, str]:
    """Return the outcome of a run that may end in an error, and its last line."""
    lines = [line for line in ended.said.replace("\r", "\n").splitlines() if line.strip()]
    last = lines[-1][-300:] if lines else ""
    if ended.fault:
        return ended.fault[0], ended.fault[1] or last
    if ended.code == expected.code:
        return WORKED, last
    told = ended.code == 1 and any(line.startswith("error: ") for line in lines)
    return (REFUSED if told else TRACEBACK), last


def on_small_disk(verb: Verb, expected: Ended, tree: dict[str, str], size: int, log: Path) -> tuple[str, str]:
    """Run a verb on a disk of ``size`` bytes, then again on a large one."""
    verb.out.mkdir()
    mount(verb.out, size)
    outcome, said = outcome_of(carried_out(verb.words, log), expected)
    if outcome == WORKED and tree_of(verb.out) != tree:
        return DIFFERENT, "ended well, with other files"
    if outcome not in (WORKED, REFUSED):
        return outcome, said
    mount(verb.out, _AMPLE, _REMOUNT)
    again, why = outcome_of(carried_out(verb.words, log), expected)
    if again != WORKED:
        return TRACEBACK if again == REFUSED else again, f"with room again: {why}"
    if (found := tree_of(verb.out)) != tree:
        return DIFFERENT, f"with room again: {differing(found, tree)}"
    return outcome, said


def in_read_only_folder(verb: Verb, expected: Ended, log: Path, finished: Path | None) -> tuple[str, str]:
    """Run a verb in a read-only folder: an empty one, or a copy of finished work."""
    verb.out.mkdir()
    mount(verb.out, _AMPLE)
    if finished is not None:
        shutil.copytree(finished, verb.out, dirs_exist_ok=True)
    before = tree_of(verb.out)
    mount(verb.out, _AMPLE, _REMOUNT | _READ_ONLY)
    outcome, said = outcome_of(carried_out(verb.words, log), expected)
    if tree_of(verb.out) != before:
        return DIFFERENT, "files changed"
    if finished is None and outcome == WORKED:
        return DIFFERENT, "ended well, and nothing is there"
    if finished is not None and outcome == REFUSED:
        return TRACEBACK, f"finished work is not reused: {said}"
    return outcome, said


def run(folder: Path, points: int, only: list[str]) -> dict[str, Counter[str]]:
    """Try all verbs, print each outcome, and return the outcomes by verb."""
    log, answer = folder / "log.txt", folder / "answer.json"
    verbs = prepare(folder, log)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, verb in verbs.items():
        if only and name not in only:
            continue
        expected = carried_out(verb.words, log)
        if not verb.out.exists():  # check writes nothing
            continue
        tree, kept = tree_of(verb.out), folder / "kept"
        written = sum(file.stat().st_size for file in verb.out.rglob("*") if file.is_file())
        verb.out.rename(kept)
        # From nearly nothing to twice the final size, since some files are removed again.
        sizes = [4096 * max(2, round((share + 0.5) / points * 2 * written / 4096)) for share in range(points)]
        trials = {
            f"a disk of {size // 1024} KiB": partial(on_small_disk, verb, expected, tree, size, log) for size in sizes
        }
        trials["a read-only folder"] = partial(in_read_only_folder, verb, expected, log, None)
        if name in _REUSED:
            trials["finished in a read-only folder"] = partial(in_read_only_folder, verb, expected, log, kept)
        for where, work in trials.items():
            outcome, said = apart(work, answer)
            found[name][outcome] += 1
            print(f"{name}, {where}: {outcome}; {said}", flush=True)
            verb.out.rmdir()  # the mount is gone with its process
        shutil.rmtree(kept)
    return found


def main() -> int:
    """Run the benchmark, print and store the table; return 1 if there was an unwanted outcome."""
    return int(failed(tried("disk", __doc__ or "", 8, "sizes of disk that each verb is tried on", run)))


if __name__ == "__main__":
    sys.exit(main())
