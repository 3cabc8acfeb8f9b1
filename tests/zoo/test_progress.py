from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from zoo.progress import SWITCH, are_bars_shown, close_bars, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert are_bars_shown() == shown
        assert list(progress(iter("abc"), "spelling", total=3)) == ["a", "b", "c"]
        assert ("spelling" in stream.getvalue()) == shown
    monkeypatch.setenv(SWITCH, "1")
    assert not are_bars_shown()


def test_what_an_error_leaves_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    left = tqdm(total=2, file=stream)
    left.update()
    assert not stream.getvalue().endswith("\n")
    close_bars()
    assert stream.getvalue().endswith("\n")


def test_no_module_has_bars_of_its_own() -> None:
    root = Path(__file__).resolve().parents[2]
    users = {
        str(file.relative_to(root))
        for package in ("zoo", "compressor", "export")
        for file in (root / package).rglob("*.py")
        if "from tqdm" in file.read_text() or "import tqdm" in file.read_text()
    }
    assert users == {"zoo/progress.py", "compressor/cli/manners.py"}
