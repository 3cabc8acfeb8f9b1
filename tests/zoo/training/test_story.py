from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from zoo import train
from zoo.training.story import EpochLines, _is_rising, progress_of_training


def test_a_line_an_epoch_where_there_is_no_terminal(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level("INFO", "zoo")
    options: dict[str, Any] = {"image_size": 32, "batch_size": 16, "lr": 2e-3, "workers": 0, "validation": 0.34}
    folder = train(photos, tmp_path / "t", arch="test_resnet", dim=8, epochs=3, validate_every=2, **options)
    lines = [re.sub(r" \(\d+ s\)$", "", line) for line in caplog.messages if line.startswith("epoch ")]
    rows = [
        row for row in csv.DictReader((folder / "log" / "metrics.csv").read_text().splitlines()) if row["train/loss"]
    ]
    losses = [[float(row["train/loss"]) for row in rows if row["epoch"] == str(epoch)] for epoch in range(3)]
    expected = [f"epoch {i}/3: loss {sum(each) / len(each):.4g}" for i, each in enumerate(losses, start=1)]
    measured = {entry["epoch"]: entry for entry in json.loads((folder / "validation.json").read_text())}
    assert sorted(measured) == [2, 3]
    for epoch in (2, 3):
        recall, precision = measured[epoch]["recall_at_1"], measured[epoch]["map_at_r"]
        expected[epoch - 1] += f", Recall@1 {100 * recall:.2f} %, MAP@R {100 * precision:.2f} %"
    assert lines == expected
    said = capfd.readouterr()
    assert said.out == "" and "it/s" not in said.err


def test_a_bar_where_there_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress_of_training(), EpochLines)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress_of_training()
    assert isinstance(bar, TQDMProgressBar)
    bar.init_train_tqdm().close()
    assert "Training" in terminal.getvalue() and capsys.readouterr().out == ""


def test_only_what_rose_is_still_improving() -> None:
    def learner(*scores: float) -> Any:
        history = [{"epoch": i, "map_at_r": score} for i, score in enumerate(scores, start=1)]
        best = max(history, key=lambda entry: (entry["map_at_r"], entry["epoch"]))  # the later of equals
        return SimpleNamespace(history=history, best=best, chosen_by="map_at_r")

    for scores, rises in (((0.5, 0.6, 0.7), True), ((1.0, 1.0, 1.0), False), ((0.7, 0.6, 0.5), False)):
        assert _is_rising(learner(*scores), len(scores)) == rises
