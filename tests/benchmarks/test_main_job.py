"""The main job's table holds what was made with the settings as they are."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.main_job import run


def line(config: str = "quickstart") -> dict[str, Any]:
    settings = run.settings_of(config)
    return {
        "config": config,
        "seed": 0,
        "settings": {name: deepcopy(settings[name]) for name in ("teacher", "student")},
    }


def test_lines_of_other_settings_do_not_count() -> None:
    same, compiled, other, shorter = line(), line("grocery"), line(), line("omniglot")
    compiled["settings"]["student"]["compile"] = True  # the same result, sooner
    other["settings"]["teacher"]["images_per_class"] = 7
    del shorter["settings"]["student"]["min_crop"]
    assert run.counting([same, compiled, other, shorter]) == [same, compiled]


def test_a_part_that_is_in_the_results_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def part(name: str, stages: list[str]) -> Any:
        def run_part(config: str, settings: dict[str, Any]) -> dict[str, Any]:
            asked.append((name, settings["seed"]))
            share = {"recall": dict.fromkeys("1248", 0.5), "map_at_r": 0.25, "retention": 1.0, "step": None}
            stage = share | {"parameters": 9, "dim": 4, "bytes": 5_000_000}
            seconds = {"seconds": 60} if name == "distilled" else {}
            return {"stages": dict.fromkeys(stages, stage), "settings": line(config)["settings"]} | seconds

        return run_part, stages[-1]

    parts = {
        "distilled": part("distilled", ["teacher", "student"]),
        "labels-only": part("labels-only", ["labels only"]),
    }
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run, "RESULTS", run.Results(tmp_path / "results.jsonl"))
    monkeypatch.setattr(run, "TABLE", tmp_path / "results.md")
    for more in (["--parts", "labels-only"], [], ["--seeds", "0", "1"]):
        monkeypatch.setattr(sys, "argv", ["run", "quickstart", "--work", str(tmp_path), "--seeds", "0", *more])
        run.main()
    assert asked == [("labels-only", 0), ("distilled", 0), ("distilled", 1), ("labels-only", 1)]
    rows = [row.split(" | ")[1:4] for row in (tmp_path / "results.md").read_text().splitlines() if "50.00" in row]
    assert rows == [[name, "0, 1", "50.00 ± 0.00"] for name in ("teacher", "student", "labels only")]
    assert "- quickstart: 1.0, 1.0 minutes a seed" in (tmp_path / "results.md").read_text()
