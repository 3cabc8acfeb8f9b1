"""The main job's table has only results made with the current settings."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.main_job import labels_only_tuning, run
from zoo import DataSplits, create_model, load_data, save_model
from zoo.models.facts import ModelFacts, set_facts


def line(config: str = "quickstart") -> dict[str, Any]:
    settings = run.settings_of(config)
    return {
        "config": config,
        "seed": 0,
        "stages": {"student": {}},
        "settings": {name: deepcopy(settings[name]) for name in ("teacher", "student")},
    }


def test_lines_of_other_settings_do_not_count() -> None:
    same, compiled, other, shorter = line(), line("grocery"), line(), line("omniglot")
    compiled["settings"]["student"]["compile"] = True  # the same result, sooner
    other["settings"]["teacher"]["images_per_class"] = 7
    del shorter["settings"]["student"]["min_crop"]
    assert run.counting([same, compiled, other, shorter]) == [same, compiled]


def tune(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = "quickstart") -> dict[str, Any]:
    """Note runs of tuning, of which the fifth is the best, and return its options."""
    monkeypatch.setattr(labels_only_tuning, "TUNING", run.Results(folder / "tuning.jsonl"))
    scores = iter([0.1, 0.2, 0.3, 0.2, 0.5, 0.4])
    search = labels_only_tuning.search(config, run.settings_of(config))
    search.run(lambda settings: {"validation": {"map_at_r": next(scores)}})
    return search.grid[4]


def test_labels_only_counts_with_the_rate_that_tuning_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = line() | {"stages": {"labels only": {}}}
    both = line() | {"stages": {"student": {}, "labels only": {}}}  # as lines were before there was tuning
    monkeypatch.setattr(labels_only_tuning, "TUNING", run.Results(tmp_path / "none.jsonl"))
    assert run.counting([alone | {"options": {}}, alone, both]) == [both | {"stages": {"student": {}}}]
    tuned = tune(tmp_path, monkeypatch)
    chosen = alone | {"options": tuned}
    assert run.counting([alone | {"options": tuned | {"lr": 7.0}}, chosen]) == [chosen]


def test_labels_only_has_the_tuned_rate_and_the_schedule_of_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = tune(tmp_path, monkeypatch)
    settings = run.settings_of("quickstart") | {"seed": 3, "out": tmp_path / "seed3"}
    monkeypatch.setattr(run, "RESULTS", run.Results(tmp_path / "results.jsonl"))
    with pytest.raises(SystemExit, match="has no teacher"):
        run.labels_only("quickstart", settings)
    stages = {"teacher": {"recall": {"1": 0.8}}}
    run.RESULTS.add({"config": "quickstart", "seed": 3, "stages": stages, "settings": line()["settings"]})
    given: dict[str, Any] = {}

    def train(data: str, out: Path, **options: Any) -> Path:
        given.update(options)
        model = create_model("test_resnet", 64, image_size=32)
        set_facts(model, ModelFacts(metric="cosine"))
        save_model(model, out)
        return out

    few = load_data("glyphs").test
    few = few.subset(range(60))
    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "load_data", lambda data, split: DataSplits(data, few, few, few))
    made = run.labels_only("quickstart", settings)
    student = settings["student"]
    assert {"seed": 3, "epochs": student["epochs"], "validation": settings["validation"]}.items() <= given.items()
    assert tuned.items() <= given.items() and tuned["proxy_lr_factor"] != settings["teacher"]["proxy_lr_factor"]
    stage = made["stages"]["labels only"]
    assert stage["retention"] == stage["recall"]["1"] / 0.8
    assert (stage["parameters"], stage["dim"]) == (378_896, 64) and stage["bytes"] > 1_500_000
    assert made["options"] == tuned and run.counting([made | {"config": "quickstart"}])


@pytest.mark.parametrize("config", labels_only_tuning.RATES)
def test_tuning_holds_training_classes_out(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_only_tuning, "TUNING", run.Results(tmp_path / "tuning.jsonl"))
    search = labels_only_tuning.search(config, run.settings_of(config))
    tried = [search.settings_of(options) for options in search.grid]
    assert len({(options["lr"], options["proxy_lr_factor"]) for options in tried}) == 6
    for options in tried:
        splits = options.get("split", "auto")
        assert "omniglot-validation" in splits or options["validation"] > 0
        assert options["validate_every"] == options["epochs"]  # the last epoch is measured, and no other chosen


def test_a_part_that_is_in_the_results_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    tuned = tune(tmp_path, monkeypatch)

    def part(name: str, stages: list[str]) -> Any:
        def run_part(config: str, settings: dict[str, Any]) -> dict[str, Any]:
            asked.append((name, settings["seed"]))
            share = {"recall": dict.fromkeys("1248", 0.5), "map_at_r": 0.25, "retention": 1.0, "step": None}
            stage = share | {"parameters": 9, "dim": 4, "bytes": 5_000_000}
            own = {"seconds": 60} if name == "distilled" else {"options": tuned}
            return {"stages": dict.fromkeys(stages, stage), "settings": line(config)["settings"]} | own

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
