"""The files that benchmarks store runs in, and the other libraries' losses they run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.results import GridSearch, Results, digest_of, gain, gain_over, grouped, in_points, percent
from zoo.errors import DivergedError, OptionError
from zoo.losses import create_loss
from zoo.models.making import create_model
from zoo.training.learner import Learner
from zoo.training.options import Training

GRID: list[dict[str, Any]] = [{"lr": 1}, {"lr": 2}, {"lr": 3}]


def score(line: dict[str, Any]) -> float:
    return float(line["recall"])


def test_a_torn_line_is_passed_over_and_not_built_on(tmp_path: Path) -> None:
    results = Results(tmp_path / "deep" / "runs.jsonl")
    results.add({"a": 1, "machine": 0, "device": "cpu", "versions": 0})
    with results.path.open("a") as file:
        file.write('{"a": 2, "b"')
    assert [line["a"] for line in results.lines()] == [1]
    results.add({"a": 3})
    assert [line["a"] for line in results.lines()] == [1, 3]
    assert [line["a"] for line in results.lines(a=3)] == [3] and results.lines(b=1) == []


def with_all(options: dict[str, Any]) -> dict[str, Any]:
    return {"epochs": 5} | options


def test_every_place_of_the_grid_is_tried_once_and_divergence_is_noted(tmp_path: Path) -> None:
    tuning = Results(tmp_path / "tuning.jsonl")
    ran = []

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        ran.append(settings)
        if settings["lr"] == 3:
            raise DivergedError("diverged")
        return {"recall": settings["lr"] / 10}

    GridSearch(tuning, GRID[:1], with_all, score, loss="a").run(run)
    search = GridSearch(tuning, GRID, with_all, score, loss="a")
    with pytest.raises(SystemExit, match="has 1 of 3 runs"):
        search.best()
    tuning.add(tuning.lines()[0])  # twice the same does not stand for another
    tuning.add(tuning.lines()[0])
    with pytest.raises(SystemExit, match="has 1 of 3 runs"):
        search.best()
    for _ in range(2):
        search.run(run)
    assert ran == [{"epochs": 5, "lr": lr} for lr in (1, 2, 3)]
    assert search.best() == {"lr": 2}
    assert percent(tuning.lines()[-1], score) == "failed" and percent(tuning.lines()[-2], score) == "20.00"
    assert {"machine", "device", "versions", "run"} <= set(tuning.lines()[-1])
    other = GridSearch(tuning, GRID[2:], with_all, score, loss="b")
    other.run(run)
    with pytest.raises(SystemExit, match="none of 1 runs"):
        other.best()


def test_a_mistake_is_no_result_of_tuning(tmp_path: Path) -> None:
    tuning = Results(tmp_path / "tuning.jsonl")

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        raise OptionError("begun with other options")

    with pytest.raises(OptionError, match="begun with other options"):
        GridSearch(tuning, GRID, with_all, score, loss="a").run(run)
    assert tuning.lines() == []


def longer(options: dict[str, Any]) -> dict[str, Any]:
    return {"epochs": 9} | options


def test_runs_of_other_settings_count_no_more(tmp_path: Path) -> None:
    tuning = Results(tmp_path / "tuning.jsonl")
    search = GridSearch(tuning, GRID, with_all, score)
    search.run(lambda settings: {"recall": settings["lr"]})
    assert [line["options"] for line in search.lines()] == GRID
    changed = GridSearch(tuning, GRID, longer, score)
    assert changed.lines() == []
    with pytest.raises(SystemExit, match="has 0 of 3 runs"):
        changed.best()


def test_a_table_has_the_runs_of_what_was_best_and_none_of_a_search_that_is_not_whole(tmp_path: Path) -> None:
    tuning = Results(tmp_path / "tuning.jsonl")
    search = GridSearch(tuning, GRID, with_all, score)
    lines = [{"settings": digest_of(with_all({"lr": lr})), "seed": seed} for lr in (1, 2, 3) for seed in (0, 1)]
    lines.append({"settings": digest_of(longer({"lr": 3})), "seed": 5})
    GridSearch(tuning, GRID[1:], with_all, score).run(lambda settings: {"recall": settings["lr"]})
    assert search.with_best(lines) == []
    search.run(lambda settings: {"recall": settings["lr"]})
    assert search.with_best(lines) == lines[4:6]
    assert search.with_best(lines, longer) == lines[6:]


def test_settings_count_but_not_where_the_data_lies() -> None:
    settings = {"data": "a", "seed": 0, "out": "x", "teacher": {"lr": 1, "dim": 2}}
    same = {"teacher": {"dim": 2, "lr": 1}, "data": "b", "seed": 1, "out": "y"}
    assert digest_of(settings) == digest_of(same) != digest_of(same | {"teacher": {"dim": 3, "lr": 1}})


@pytest.mark.parametrize("name", ["ProxyNCA", "NormalizedSoftmax"])
def test_proxies_of_the_rivals_learn_at_the_proxies_rate(name: str) -> None:
    loss = create_loss(f"benchmarks.papers.rivals:{name}", num_classes=5, dim=8)
    own = dict(loss.named_parameters())
    assert list(own) == ["proxies"] and sorted(own["proxies"].shape) == [5, 8]
    embeddings, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0])
    loss(embeddings, labels).backward()
    assert own["proxies"].grad is not None and own["proxies"].grad.abs().sum() > 0
    rates: dict[str, Any] = {"lr": 0.1, "proxy_lr_factor": 30.0, "weight_decay": 0.0, "schedule": "step"}
    asked = Training.of(rates | {"step_epochs": 9, "step_factor": 1.0, "warmup_epochs": 0, "validate_every": 1})
    model = create_model("test_resnet", 8, image_size=32)
    learner = Learner(model, loss, None, asked)
    learner.trainer = SimpleNamespace(estimated_stepping_batches=9, max_epochs=1, precision="32-true")  # type: ignore[assignment]
    groups = learner.configure_optimizers()["optimizer"].param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rate_of[id(own["proxies"])] == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["ProxyNCA", "NormalizedSoftmax"])
def test_proxies_of_the_rivals_begin_as_ours(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"num_classes": 300, "dim": 100}
    ours, theirs = (create_loss(loss, **sizes) for loss in ("proxy_anchor", f"benchmarks.papers.rivals:{name}"))
    spreads = [dict(loss.named_parameters())["proxies"].std().item() for loss in (ours, theirs)]
    assert spreads[0] == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert spreads[1] == pytest.approx(spreads[0], rel=0.02)


@pytest.mark.parametrize(
    "name", ["Contrastive", "Triplet", "MultiSimilarity", "ProxyNCA", "NormalizedSoftmax", "NTXent"]
)
def test_rivals_compute_in_float32_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    loss = create_loss(f"benchmarks.papers.rivals:{name}", num_classes=4, dim=16)
    embeddings, labels = torch.randn(8, 16), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    expected = loss(embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(embeddings, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_a_gain_is_the_mean_difference_with_its_standard_error() -> None:
    assert gain([1.0, 2.0, 3.0]) == "+2.00 ± 0.58"  # deviation 1, over the root of 3
    assert gain([-0.5]) == "-0.50" and gain([]) == ""


def test_gain_is_over_runs_of_the_same_seeds() -> None:
    base = [{"seed": seed, "share": share} for seed, share in ((0, 0.25), (1, 0.5), (7, 0.0))]
    found = [{"seed": seed, "share": share} for seed, share in ((1, 0.53), (0, 0.26), (9, 1.0))]
    assert gain_over(base, found, lambda line: line["share"]) == "+2.00 ± 1.00"  # of 3 and 1


def test_scores_are_grouped_in_percent_and_differences_told_in_points() -> None:
    lines = [{"a": "x", "recall": 0.5}, {"a": "y", "recall": 0.25}, {"a": "x", "recall": 1}]
    assert grouped(lines, "a", score) == {"x": [50.0, 100.0], "y": [25.0]}
    assert in_points(0.0123, [-0.001, 0.03]) == "1.23 [-0.10, 3.00]"
    assert in_points(0.0123, [-0.001, 0.03], "+.1f") == "+1.2 [-0.1, +3.0]"
