"""A few cases of benchmarks/robustness/fuzz.py; the full run takes minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.robustness.fuzz import KINDS, Kind, outcome_of
from benchmarks.robustness.outcomes import OUTCOMES, table, write
from benchmarks.robustness.specimens import USES, make_specimens


@pytest.fixture(scope="module")
def specimens(tiny_onnx: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specimens")
    make_specimens(folder, tiny_onnx(folder / "tiny.onnx"))
    return folder


def test_broken_files_work_as_before_or_are_refused_in_a_line(specimens: Path) -> None:
    expected: dict[str, str] = {}
    found = [outcome_of(number, 1, specimens, expected) for number in range(6 * len(KINDS))]
    assert [case for case in found if case[1] not in OUTCOMES[:2]] == []
    counts = Counter(outcome for _, outcome, _ in found)
    assert min(counts[outcome] for outcome in OUTCOMES[:2]) > 10
    assert expected.keys() == USES.keys() and len({value for value in expected.values() if value}) > 8


def test_a_blank_section_is_no_fault(tmp_path: Path) -> None:
    """Case 745 of seed 2: the change left nothing of a section but its name."""
    (tmp_path / "run.yaml").write_text("data: glyphs\nout: out\nteacher:\nstudent:\n  epochs: 3\n")
    assert USES["yaml"](tmp_path) == ""


def test_what_should_not_be_is_noticed(specimens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(use: Callable[[Path], str], same: bool = True) -> str:
        monkeypatch.setitem(
            KINDS, "config.json, values", Kind("stage", "options.json", lambda file, random: None, same)
        )
        monkeypatch.setitem(USES, "stage", use)
        return outcome_of(0, 0, specimens, {"stage": "as ever"})[1]

    assert outcome(lambda folder: "as ever") == "worked"
    assert outcome(lambda folder: "other") == "silently different"
    assert outcome(lambda folder: "other", same=False) == "worked"
    assert outcome(lambda folder: str(1 // 0)) == "traceback"
    monkeypatch.setattr("benchmarks.robustness.fuzz.LIMIT", 2**25)  # so that the test takes less
    assert outcome(lambda folder: str((b"1" * 2**26).count(b"2"))) == "over 1 GB"


def test_tables_have_a_line_for_each_row_and_one_for_all(tmp_path: Path) -> None:
    found = {"image": Counter({"worked": 2, "hang": 1}), "last.ckpt": Counter({"refused in one line": 4})}
    lines = table(found, [*found, "ids.json"], "format").splitlines()
    assert lines[2:] == [
        "| image | 3 | 2 | 0 | 0 | 1 | 0 | 0 |",
        "| last.ckpt | 4 | 0 | 4 | 0 | 0 | 0 | 0 |",
        "| ids.json | 0 | 0 | 0 | 0 | 0 | 0 | 0 |",
        "| all | 7 | 2 | 4 | 0 | 1 | 0 | 0 |",
    ]
    write("kills", "kill them", {"train": Counter({"worked": 9})}, "verb", tmp_path)
    write("fuzz", "break them", found, "format", tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "`kill them`" in text and "| train | 9 | 9 |" in text and text.index("break them") < text.index("kill them")
