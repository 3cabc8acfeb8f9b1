"""The protocol of the papers' tables: what is trained on, what is judged, and which runs a table includes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.labels_only import as_labels_only
from benchmarks.papers import (
    classifier,
    continuous,
    log_ratio,
    novel_classes,
    novel_classes_conditions,
    proxy_anchor,
    self_supervised,
    transfer,
)
from benchmarks.papers.probes import knn_accuracy, linear_probe
from benchmarks.papers.protocol import every_fourth
from benchmarks.results import Results, digest_of
from zoo import DataSplits, ImageSet


def drawings(classes: int = 6, each: int = 8) -> ImageSet:
    labels = np.repeat(np.arange(classes), each)
    names = [f"class{label}" for label in range(classes)]
    return ImageSet([str(i) for i in range(len(labels))], [np.zeros((4, 4, 3), np.uint8)] * len(labels), labels, names)


def test_a_table_of_wrong_labels_alone_has_no_best_of_clean_ones() -> None:
    made = {"machine": {"processor": "x", "cores": 2}, "versions": {}}
    name = next(iter(proxy_anchor.LOSSES))
    line = {"loss": name, "noise": 0.2, "seed": 0, "recall": {"1": 0.5}, "curve": [0.5]} | made
    assert f"| {name} |  | 50.00 |  | – |" in proxy_anchor.table([line], [])


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_the_fraction_of_labels_asked_for_is_wrong_and_no_image_changes(fraction: float) -> None:
    images = drawings()
    assert images.labels is not None
    found = proxy_anchor.corrupt(images, fraction, seed=3)
    assert found.labels is not None
    assert (found.labels != images.labels).sum() == fraction * 48
    assert set(found.labels) <= set(images.labels) and found.ids is images.ids
    assert np.array_equal(found.labels, proxy_anchor.corrupt(images, fraction, seed=3).labels)
    assert np.array_equal(images.labels, drawings().labels)  # the given ones stay
    if fraction:
        assert not np.array_equal(found.labels, proxy_anchor.corrupt(images, fraction, seed=4).labels)


def test_a_quarter_of_each_class_judges() -> None:
    chosen = every_fourth(np.array([5, 5, 7, 5, 5, 7, 7, 7, 5]))
    assert chosen.tolist() == [False, False, False, False, True, False, False, True, False]


def test_drawings_that_judge_a_classifier_are_not_trained_on() -> None:
    everything = drawings()
    whole = DataSplits("drawings", everything, everything.subset([]), everything.subset([]))
    data = classifier.within_classes(whole)
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [30, 6, 12]  # 5, 1 and 2 of the 8 drawings of each of 6 classes
    assert all(set(np.unique(part.labels)) == set(range(6)) for part in parts)
    assert sorted(image for part in parts for image in part.ids) == sorted(everything.ids)


def test_labels_alone_take_the_students_network_and_schedule_and_the_teachers_loss_and_sampling() -> None:
    student = {
        "arch": "a",
        "dim": 8,
        "epochs": 7,
        "lr": 0.1,
        "batch_size": 9,
        "images_per_class": 2,
        "augment": "photo",
    }
    teacher = {"arch": "b", "dim": 99, "epochs": 3, "lr": 0.5, "images_per_class": 4, "proxy_lr_factor": 30}
    assert as_labels_only(student | {"loss": "rkd"}, teacher) == {
        "arch": "a",
        "dim": 8,
        "epochs": 7,
        "lr": 0.1,
        "augment": "photo",
        "batch_size": 9,
        "images_per_class": 4,
        "proxy_lr_factor": 30,
        "validate_every": 1,
    }


def test_probes_tell_apart_what_is_apart_and_vote_by_nearness() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    centres = np.array([[4.0, 0], [0, 4], [-4, -4]])
    points = (centres[labels] + generator.standard_normal((60, 2))).astype(np.float32)
    others = (centres[labels] + generator.standard_normal((60, 2))).astype(np.float32)
    assert linear_probe(points, labels, others, labels) > 0.95
    assert linear_probe(points, generator.permutation(labels), others, labels) < 0.7
    # By hand: of the 3 nearest of 0.4, at 0, 1 and 2, two are of class 1; of equal counts the nearest one's class.
    line, classes = np.array([[0.0], [1], [2], [9]], np.float32), np.array([0, 1, 1, 0])
    asked = np.array([[0.4]], np.float32)
    assert knn_accuracy(line, classes, asked, np.array([1]), "euclidean", k=3) == 1
    assert knn_accuracy(line, classes, asked, np.array([0]), "euclidean", k=2) == 1


def test_every_method_gets_the_same_budget() -> None:
    grids = [transfer.GRID, continuous.GRID, classifier.GRID, self_supervised.GRID]
    grids.append({name: proxy_anchor.grid(name) for name in proxy_anchor.LOSSES})
    variants = novel_classes.VARIANTS
    grids += [{variant: novel_classes.grid(base, variant) for variant in variants} for base in novel_classes.BASES]
    for grid in grids:
        assert len({len(runs) for runs in grid.values()}) == 1
        for runs in grid.values():
            assert len({str(options) for options in runs}) == len(runs)


@pytest.mark.parametrize("setting", [*transfer.TITLES, *transfer.TUNING_SETTINGS])
def test_all_methods_of_transfer_see_as_many_views(setting: str) -> None:
    ours = transfer.settings_of(setting, "relaxed_contrastive", {})["student"]
    for method in transfer.GRID:
        settings = transfer.settings_of(setting, method, {"lr": 0.5})
        options = settings.get("student") or settings["labels_only"]
        views = options.get("views", transfer.VIEWS) if "student" in settings else 1
        assert views * options["epochs"] * options["batch_size"] == 2 * ours["epochs"] * ours["batch_size"]
        assert options["lr"] == 0.5
    if setting in ("self", "dimension"):
        assert transfer.settings_of(setting, "teacher", {})["teacher"]["epochs"] == 2 * ours["epochs"]


@pytest.mark.parametrize("setting", ["compression", "grocery"])
def test_methods_are_tuned_in_half_of_the_epochs_and_the_same_otherwise(setting: str) -> None:
    whole, short = (transfer.settings_of(name, "rkd", {}) for name in (setting, transfer.TUNED_IN[setting]))
    assert whole["student"]["epochs"] == 2 * short["student"]["epochs"]
    assert short == whole | {"student": whole["student"] | {"epochs": transfer.SHORT_EPOCHS}}


def test_settings_of_one_teacher_share_it() -> None:
    teachers = {setting: transfer.settings_of(setting, "rkd", {})["teacher"] for setting in ("self", "dimension")}
    assert teachers["self"] == teachers["dimension"]


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Transfer with results of its own, where trainings are noted instead of made."""
    made: list[dict[str, Any]] = []
    for name in ("tuning", "results"):
        monkeypatch.setattr(transfer.COMPARISON, name, Results(tmp_path / f"{name}.jsonl"))

    def make(settings: dict[str, Any], data: str, seed: int, work: Path) -> Path:
        made.append(settings)
        return tmp_path / str(len(made))

    def validated(folder: Path) -> dict[str, Any]:
        options = made[-1].get("student") or made[-1].get("labels_only") or {"lr": 0}
        return {"epoch": 1, "map_at_r": 0.9 if options["lr"] == 1e-2 else 0.5}

    class Data:
        test = None

    monkeypatch.setattr(transfer, "make", make)
    monkeypatch.setattr(transfer, "validated", validated)
    monkeypatch.setattr(transfer, "load_data", lambda *args: Data)
    summary = {"recall": dict.fromkeys("1248", 0.5), "map_at_r": 0.25}
    monkeypatch.setattr(transfer, "measured", lambda folder, images: summary)
    return made


@pytest.mark.parametrize(
    "module", [transfer, continuous, classifier, self_supervised, proxy_anchor, novel_classes], ids=lambda m: m.__name__
)
def test_settings_of_methods_and_options_are_all_different(module: Any) -> None:
    comparison = module.COMPARISON
    digests = [digest_of(comparison.settings(key, tried)) for key in module.KEYS for tried in comparison.grid(key)]
    assert len(digests) >= 12 and len(set(digests)) == len(digests)


def test_novel_classes_are_tuned_on_alphabets_held_out_and_compared_after_training_on_all_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, trained, measured = drawings(), [], []

    def load(data: str, split: str, validation: float = 0.2) -> DataSplits:
        return DataSplits(f"{Path(split).name}, {validation}", images, images, images)

    def train(data: DataSplits, out: Path, **options: Any) -> Path:
        trained.append((data.name, options["validate_every"] == options["epochs"]))
        return out

    def score(folder: Path, test: ImageSet) -> dict[str, Any]:
        measured.append(folder)
        return {"recall": {"1": 0.5}, "map_at_r": 0.25}

    stand_ins = {"load_data": load, "train": train, "measured": score, "draw_bars": lambda *arguments: None}
    stand_ins["validated"] = lambda folder: {"map_at_r": 0.5}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(novel_classes, name, stand_in)
    for name in ("tuning", "results"):
        monkeypatch.setattr(novel_classes.COMPARISON, name, Results(tmp_path / f"{name}.jsonl"))
    monkeypatch.setattr(novel_classes.COMPARISON, "table", tmp_path / "table.md")
    for more in (["--tune"], ["--seeds", "0", "1"]):
        monkeypatch.setattr("sys.argv", ["novel_classes", "--data", "folder:x", "--bases", "proxy_nca", *more])
        novel_classes.main()
    assert trained[:8] == [("omniglot-validation.yaml, 0.2", True)] * 8
    assert trained[8:] == [("omniglot.yaml, 0", True)] * 4 and len(measured) == 4
    assert "| proxy_nca | Recall@1 | 0, 1 | 50.00 ± 0.00 | 50.00 ± 0.00 | +0.00 ± 0.00 |" in (
        (tmp_path / "table.md").read_text()
    )


def test_conditions_of_novel_classes_differ_in_the_generator_alone_and_hold_test_classes_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[dict[str, Any]] = []

    def train(data: Any, out: Path, **options: Any) -> Path:
        trained.append({"data": data} | options)
        return out

    monkeypatch.setattr(novel_classes_conditions, "train", train)
    monkeypatch.setattr(novel_classes_conditions, "load_data", lambda data, split: split)
    for condition in novel_classes_conditions.CONDITIONS:
        trained.clear()
        for variant in novel_classes.VARIANTS:
            settings = novel_classes_conditions.settings_of({"condition": condition, "variant": variant}, {})
            novel_classes_conditions.make(settings, "folder:x", 3, tmp_path)
        without, generator = (run for run in trained if run["data"] != "glyphs")
        assert without | {"loss": "novel_classes", "loss_options": generator["loss_options"]} == generator
        assert generator["loss_options"]["base"] == without["loss"] == "proxy_nca"
        assert without["seed"] == 3 and without["validate_every"] == without["epochs"]
        split = yaml.safe_load(Path(without["data"].removeprefix("list:")).read_text())
        assert {name.split("/")[0] for name in split["train"] + split["validation"]} == {"images_background_small1"}
        before = [run for run in trained if run["data"] == "glyphs"]
        assert len(before) == (2 if condition == "trained before" else 0)
        assert without.get("pretrained") == (tmp_path / "letters-3" / "model.safetensors" if before else None)


def test_the_table_of_conditions_pairs_runs_of_the_same_seeds() -> None:
    def line(variant: str, seed: int, share: float) -> dict[str, Any]:
        found = {"recall_at_1": share, "map_at_r": share / 2}
        made = {"machine": {"processor": "x", "cores": 2}, "versions": {}}
        distances = {"real_to_nearest_real": share, "novel_to_nearest_real": 2 * share}
        generator = {"generated": {"energy_distance": distances}} if variant == novel_classes.VARIANTS[1] else {}
        return {"condition": "few classes", "variant": variant, "seed": seed, "validation": found} | made | generator

    without, generator = novel_classes.VARIANTS
    lines = [line(without, 0, 0.5), line(generator, 0, 0.52), line(without, 1, 0.6), line(generator, 1, 0.64)]
    table = novel_classes_conditions.table(lines)
    assert "| few classes | Recall@1 | 0, 1 | 55.00 ± 7.07 | 58.00 ± 8.49 | +3.00 ± 1.00 |" in table
    assert "| few classes | MAP@R | 0, 1 | 27.50 ± 3.54 | 29.00 ± 4.24 | +1.50 ± 0.50 |" in table
    assert "| few classes | 0.58 | 1.16 |" in table


def test_what_was_tuned_runs_and_a_changed_grid_takes_its_runs_out_of_the_table(
    stubbed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = len(transfer.GRID["rkd"])
    with pytest.raises(SystemExit, match=f"has 0 of {tried} runs"):
        transfer.compare("dimension", "data", 0, ["rkd"], tmp_path)
    stubbed.clear()
    transfer.tune(transfer.TUNED_IN["compression"], "data", ["rkd"], tmp_path)
    assert len(stubbed) == tried and {run["student"]["dim"] for run in stubbed} == {64}
    for seed in (0, 1, 1):
        transfer.compare("dimension", "data", seed, ["rkd"], tmp_path)
    assert len(stubbed) == tried + 2 * 1 + 1  # the teacher's line of seed 0 was there already
    assert [run["student"]["lr"] for run in stubbed[tried:] if "student" in run] == [1e-2, 1e-2]
    lines, tuning = (transfer.COMPARISON.lines(transfer.KEYS), transfer.COMPARISON.tuning_lines(transfer.TUNED_KEYS))
    assert {line["seed"] for line in lines if line["method"] == "rkd"} == {0, 1} and len(tuning) == tried
    assert "| rkd | embeddings | 0, 1 | 50.00 ± 0.00 |" in transfer.table(lines, tuning)
    grid = [{"lr": 3e-3, "loss_options": {"angle_weight": weight}} for weight in (7.0, 8.0, 9.0, 10.0)]
    monkeypatch.setitem(transfer.GRID, "rkd", grid)
    assert [line["method"] for line in transfer.COMPARISON.lines(transfer.KEYS)] == ["teacher", "teacher"]
    assert transfer.COMPARISON.tuning_lines(transfer.TUNED_KEYS) == []


def test_a_rivals_loss_on_logits_is_hintons() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.arange(5)
    maps = [torch.randn(5, 3, 2, 2)]
    loss = classifier.AssistedCrossEntropy(relaxed=0.0, logits=2.0, temperature=4.0)
    found = loss(student, teacher, torch.arange(5), labels, maps, maps)
    p, q = torch.softmax(teacher / 4, 1), torch.softmax(student / 4, 1)
    expected = -torch.log_softmax(student, 1)[range(5), labels].mean() + 2 * 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(found, expected)


def test_self_supervision_is_tuned_on_validation_characters_and_chooses_no_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = {"train": range(16), "validation": range(16, 32), "test": range(32, 48)}
    data = DataSplits("drawings", **{name: drawings().subset(part) for name, part in rows.items()})
    trained: list[DataSplits] = []
    judged: list[ImageSet] = []

    def train(data: DataSplits, out: Path, **options: Any) -> Path:
        trained.append(data)
        return out

    def judge(folder: Path, images: ImageSet) -> dict[str, float]:
        judged.append(images)
        return {"linear_probe": 0.5, "knn": 0.5}

    monkeypatch.setattr(self_supervised, "train", train)
    monkeypatch.setattr(self_supervised, "distill", lambda teacher, data, out, **options: train(data, out))
    monkeypatch.setattr(self_supervised, "judge", judge)
    for name in ("tuning", "results"):
        monkeypatch.setattr(self_supervised.COMPARISON, name, Results(tmp_path / f"{name}.jsonl"))
    self_supervised.tune(data, ["rkd"], tmp_path)
    assert [list(images.ids) for images in judged] == [list(data.validation.ids)] * len(self_supervised.GRID["rkd"])
    judged.clear()
    self_supervised.compare(data, 0, ["rkd"], tmp_path)
    assert [list(images.ids) for images in judged] == [list(data.test.ids)] * 2
    for images in trained:
        assert list(images.train.ids) == list(data.train.ids) and not len(images.validation)
        assert images.train.labels is None or len(set(images.train.labels)) == 16


def test_wedges_have_poses_that_are_the_same_or_not() -> None:
    shared, own = log_ratio.poses(True, 0), log_ratio.poses(False, 0)
    for data, ties in ((shared, True), (own, False)):
        assert (len(data.train), len(data.validation), len(data.test)) == (900, 0, 600)
        assert data.train.continuous is not None
        distances = data.train.continuous.distances(np.arange(200), np.arange(200))
        assert ((distances[~np.eye(200, dtype=bool)] == 0).mean() > 0.005) == ties
    assert np.array_equal(own.test.pixels(3), log_ratio.poses(False, 0).test.pixels(3))
    assert not np.array_equal(own.test.pixels(3), log_ratio.poses(False, 1).test.pixels(3))
