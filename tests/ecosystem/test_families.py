"""A user's script from a teacher of each family to a report: make test-ecosystem."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families.run import MOST_LINES, SCRIPTS, carry_out
from benchmarks.families.teachers import MAKERS


def test_a_user_writes_five_lines_at_most() -> None:
    assert MAKERS.keys() == SCRIPTS.keys()
    assert max(script.lines for script in SCRIPTS.values()) <= MOST_LINES == 5


@pytest.mark.parametrize("family", SCRIPTS)
def test_the_lines_end_with_a_report(family: str, photos: Path, tmp_path: Path) -> None:
    for library in ("transformers", "open_clip", "sentence_transformers"):
        pytest.importorskip(library)
    recalls = carry_out(family, photos, tmp_path)["recall_at_1"]
    assert recalls["onnx-fp32"] == recalls["student"] > 0
