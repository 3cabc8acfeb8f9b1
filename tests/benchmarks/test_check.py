"""The benchmark of ``check``, on few images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.data import check


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_copies_are_planted_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.zoo.data.checking.test_hashing import picture

    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture(number, 300).save(tmp_path / "photos" / f"{number}.jpg")
    words = [str(tmp_path / "photos"), "--images", "500", "--turns", "1", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["check", *words])
    monkeypatch.setattr(check, "RESULTS", tmp_path / "results.jsonl")
    check.main()
    result = json.loads((tmp_path / "results.jsonl").read_text())
    assert result["found"]["bytes"] == result["found"]["quality 40"] == result["broken_found"] == 1
    assert result["share_of_decoding_cpu"] > 0
    assert 0 <= result["peak_mib"] < 4000  # 0 where it was over before memory was looked at
    assert not (tmp_path / "work" / "500").exists()
