"""Killing verbs and filling their disks: the outcomes that the two benchmarks count."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from benchmarks.robustness.disk import outcome_of
from benchmarks.robustness.kills import points_of
from benchmarks.robustness.outcomes import LIMIT
from benchmarks.robustness.trials import Ended, carried_out, counting, killed_at, tree_of, verbs_in
from compressor.cli.verbs import VERBS

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")


def test_points_are_spread_over_changes_and_time() -> None:
    assert points_of(100, 10.0, 4) == [1.25, 38, 6.25, 88]
    assert points_of(1, 10.0, 2) == [2.5, 1] and points_of(0, 10.0, 2) == [2.5, 7.5]


def test_logs_of_training_are_not_compared(tmp_path: Path) -> None:
    for name in ("model.onnx", "log/metrics.csv", "teacher/log-2/metrics.csv", "teacher/login.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list(tree_of(tmp_path)) == ["model.onnx", "teacher/login.txt"]
    assert len(set(tree_of(tmp_path).values())) == 1


@pytest.mark.parametrize(
    ("code", "said", "grown", "expected"),
    [
        (0, "Done: x", 0, "worked"),
        (1, "reading\rerror: x: No space left on device. Check the free space.", 0, "refused in one line"),
        (1, "nothing is said", 0, "traceback"),
        (1, "Traceback (most recent call last):\nValueError: error: x", 0, "traceback"),
        (-11, "", 0, "traceback"),
        (None, "", 0, "hang"),
        (0, "Done: x", LIMIT + 1, "over 1 GB"),
    ],
)
def test_how_a_run_ended(code: int | None, said: str, grown: int, expected: str) -> None:
    assert outcome_of(Ended(code, said, 1.0, grown), Ended(0, "Done: x", 1.0, 0))[0] == expected


@linux
def test_a_process_dies_just_before_the_change_that_is_named(tmp_path: Path) -> None:
    def five_files(watch: object) -> None:
        assert callable(watch)
        watch()
        for name in "abcde":
            (tmp_path / name).write_text(name)

    ended = carried_out(["--version"], tmp_path / "log", before=lambda: five_files(killed_at(3)))
    assert ended.code == -signal.SIGKILL and sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "log"]
    ended = carried_out(["--version"], tmp_path / "log", before=lambda: five_files(counting(tmp_path / "count")))
    assert (ended.code, (tmp_path / "count").read_text()) == (0, "5")
    assert not ended.has_traceback and not ended.is_large and ended.said.strip()


@linux
def test_an_error_of_the_command_is_an_exit_code(tmp_path: Path) -> None:
    ended = carried_out(["train", f"folder:{tmp_path / 'none'}", f"--out={tmp_path / 'out'}"], tmp_path / "log")
    assert ended.code == 1 and ended.said.startswith("error: ") and not ended.has_traceback


def test_every_verb_that_writes_is_tried(tmp_path: Path) -> None:
    words = {" ".join(verb.words[: 1 + (verb.words[0] == "index")]) for verb in verbs_in(tmp_path).values()}
    assert words == VERBS.keys() - {"bench", "inspect", "index search", "publish"}
