from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import lightning
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import zoo.training.checkpoints
import zoo.training.learner
from zoo import DataError, ModelError, OptionError, load_data, load_model, measure, train
from zoo.data.continuous import FunctionLabels, MatrixLabels
from zoo.errors import DivergedError
from zoo.files import LOCK, alone_in
from zoo.models.embedding import embed
from zoo.models.facts import facts_of
from zoo.models.making import create_model
from zoo.retrieval.label_measures import measure_by_labels

QUICK: dict[str, Any] = {
    "dim": 16,
    "image_size": 32,
    "crop_pct": 1.0,
    "batch_size": 16,
    "images_per_class": 4,
    "lr": 2e-3,
    "workers": 0,
    "validation": 0.34,
}


def test_a_trained_teacher_retrieves_unseen_classes(photos: Path, tiny_teacher: Path) -> None:
    test = load_data(f"folder:{photos}", validation=0.34).test
    model = load_model(tiny_teacher)
    result = measure(embed(model, test), test)
    assert result.recall_at(1) > 0.8 > 3 * result.chance
    facts = facts_of(model)
    assert facts.metric == "cosine"
    assert facts.loss == "proxy_anchor"
    assert 0 < facts.measured["validation"]["recall_at_1"] <= 1
    assert facts.data["test"] == {"images": 48, "classes": 6}
    assert not (tiny_teacher / "checkpoints").exists()


def test_same_options_reuse_and_other_options_refuse(photos: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", epochs=1, **QUICK)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", epochs=1, **QUICK)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert "reused" in caplog.text
    with pytest.raises(OptionError, match=r"epochs 1 \(now 2\)"):
        train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", epochs=2, **QUICK)


def test_interrupted_and_resumed_equals_uninterrupted(photos: Path, tmp_path: Path, interrupted_in: Any) -> None:
    options = QUICK | {"epochs": 3, "validation": 0.0}
    whole = train(f"folder:{photos}", tmp_path / "whole", arch="test_resnet", **options)

    with interrupted_in(2):
        train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    assert not (tmp_path / "parts" / "config.json").exists()
    torch.manual_seed(12345)  # whatever the process did before must not matter
    parts = train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    for (name, a), b in zip(
        load_model(whole).state_dict().items(), load_model(parts).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        ("proxy_anchor", None, [1] * 8),
        ("proxy_nca", None, [4, 4]),
        ("proxy_anchor", 2, [2] * 4),
        ("proxy_nca", 1, [1] * 8),
    ],
)
def test_a_batch_holds_as_many_images_of_a_class_as_suit_the_loss(
    loss: str, given: int | None, expected: list[int], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(learner: Any, loader: Any, *args: Any, **options: Any) -> None:
        batches = [[index for index, _ in batch] for batch in loader.batch_sampler]
        assert [np.unique(labels[batch], return_counts=True)[1].tolist() for batch in batches] == [expected] * 12
        raise InterruptedError

    labels = load_data(f"folder:{photos}", "all-train", validation=0).train.labels
    assert labels is not None and len(labels) == 96
    monkeypatch.setattr("zoo.training.fitting.fit", stop)
    options = QUICK | {"batch_size": 8, "images_per_class": given, "validation": 0, "split": "all-train"}
    with pytest.raises(InterruptedError):
        train(f"folder:{photos}", tmp_path, arch="test_resnet", loss=loss, **options)


def test_two_runs_at_once_in_a_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(OptionError, match="Another process is working"):
        train(f"folder:{photos}", tmp_path, arch="test_resnet", epochs=1, **QUICK)
    assert not (tmp_path / "checkpoints").exists()
    folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", epochs=1, **QUICK)
    assert not (folder / LOCK).exists()


class Noisy(nn.Module):
    """A loss that draws random numbers, and remembers them."""

    drawn: ClassVar[list[float]] = []

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.drawn.append(float(torch.rand(())))
        return self.drawn[-1] * embeddings.square().mean()


@pytest.mark.parametrize("workers", [0, 1])
def test_random_numbers_are_the_same_when_resumed(
    workers: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_in: Any
) -> None:
    module = ModuleType("noisy_losses")
    module.Noisy = Noisy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    options = QUICK | {"epochs": 2, "validation": 0.0, "loss": "noisy_losses:Noisy", "workers": workers}
    Noisy.drawn.clear()
    train(f"folder:{photos}", tmp_path / "whole", arch="test_resnet", **options)
    whole = list(Noisy.drawn)
    assert len(set(whole)) == len(whole) == 6

    with interrupted_in(1):
        train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    Noisy.drawn.clear()
    train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    assert Noisy.drawn == whole[3:]


def test_warmup_trains_head_only_and_frozen_batchnorm_keeps_statistics(photos: Path, tmp_path: Path) -> None:
    folder = train(
        f"folder:{photos}",
        tmp_path / "t",
        arch="test_resnet",
        epochs=1,
        warmup_epochs=1,
        freeze_batchnorm=True,
        **QUICK,
    )
    import lightning

    lightning.seed_everything(0, verbose=False)
    untouched = create_model("test_resnet", 16, pool="avgmax", image_size=32, crop_pct=1.0).state_dict()
    for name, tensor in load_model(folder).state_dict().items():
        same = torch.equal(tensor, untouched[name])
        assert same != name.startswith("fc."), name


def test_best_epoch_is_kept(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([(0.5, 0.2), (0.8, 0.6), (0.9, 0.4)])  # Recall@1 and MAP@R: the latter chooses
    states = []

    def fake(embeddings: np.ndarray, images: Any, metric: str) -> Any:
        recall, precision = next(found)
        return SimpleNamespace(average_precision=np.array([precision]), recall_at=lambda k: recall)

    def remember(self: Any) -> None:
        original(self)
        states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})

    original = zoo.training.learner.Learner.on_train_epoch_end
    monkeypatch.setattr(zoo.training.learner, "measure", fake)
    monkeypatch.setattr(zoo.training.learner.Learner, "on_train_epoch_end", remember)
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", epochs=3, **QUICK)
    model = load_model(folder)
    assert facts_of(model).measured["validation"] == {"epoch": 2, "recall_at_1": 0.8, "map_at_r": 0.6}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, states[1][name], msg=name)


def test_rates_follow_the_schedule(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []

    def remember(self: Any) -> None:
        rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        original(self)

    original = zoo.training.learner.Learner.on_train_epoch_start
    monkeypatch.setattr(zoo.training.learner.Learner, "on_train_epoch_start", remember)
    options = QUICK | {"epochs": 3, "schedule": "step", "step_epochs": 1, "step_factor": 0.5, "proxy_lr_factor": 100.0}
    train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    expected = [[2e-3 * f, 2e-3 * f, 0.2 * f] for f in (1, 0.5, 0.25)]
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize(("pretrained", "expected"), [(False, [3e-3, 3e-3, 0.09]), (True, [1e-4, 1e-4, 0.01])])
def test_rates_that_are_not_given_follow_from_the_weights(
    pretrained: bool, expected: list[float], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []

    def remember(self: Any) -> None:
        rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    monkeypatch.setattr(zoo.training.learner.Learner, "on_train_epoch_start", remember)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    options = {name: value for name, value in QUICK.items() if name != "lr"} | {"epochs": 1, "schedule": "step"}
    given = weights if pretrained else False
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", pretrained=given, **options)
    np.testing.assert_allclose(rates, [expected])
    recorded = facts_of(load_model(folder)).options
    assert (recorded["lr"], recorded["lr"] * recorded["proxy_lr_factor"]) == pytest.approx((expected[0], expected[2]))


def test_loss_of_ones_own(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "my_losses.py"
    module.write_text(
        "import torch\n"
        "class MyLoss(torch.nn.Module):\n"
        "    def __init__(self, num_classes, dim, weight=1.0):\n"
        "        super().__init__()\n"
        "        self.weight = weight\n"
        "    def forward(self, embeddings, labels):\n"
        "        return self.weight * embeddings.square().mean() + 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = train(
        f"folder:{photos}",
        tmp_path / "t",
        arch="test_resnet",
        epochs=1,
        loss="my_losses:MyLoss",
        loss_options={"weight": 0.0},
        **QUICK,
    )
    rows = list(csv.DictReader((folder / "log" / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses and all(loss == 7 for loss in losses)


def test_mistakes_are_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"proxy_anchr.*Did you mean proxy_anchor"):
        train(f"folder:{photos}", tmp_path / "a", arch="test_resnet", loss="proxy_anchr", **QUICK)
    with pytest.raises(OptionError, match="marjin"):
        train(f"folder:{photos}", tmp_path / "b", arch="test_resnet", loss_options={"marjin": 1}, **QUICK)
    with pytest.raises(OptionError, match=r"augment.*phto.*Did you mean photo"):
        train(f"folder:{photos}", tmp_path / "c", arch="test_resnet", augment="phto", **QUICK)
    with pytest.raises(DataError, match="no labels"):
        train(f"folder:{photos / 'class00'}", tmp_path / "d", arch="test_resnet", **QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="is a file"):
        train(f"folder:{photos}", tmp_path / "file", arch="test_resnet", **QUICK)


# --- continuous labels ---


def spot_test(spots: Path) -> Any:
    return load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv").test


def test_a_teacher_of_continuous_labels_ranks_unseen_images(spots: Path, spot_teacher: Path) -> None:
    test = spot_test(spots)
    model = load_model(spot_teacher)
    facts = facts_of(model)
    assert (facts.metric, facts.loss) == ("euclidean", "log_ratio")
    assert facts.data["label_distance"] == "euclidean distance of 2 numbers"
    assert facts.data["train"] == {"images": 80} and facts.data["validation"] == {"images": 20}
    validation = facts.measured["validation"]
    assert (
        set(validation) == {"epoch", "ndcg_at_10", "mean_label_distance_at_10"} and 0.9 < validation["ndcg_at_10"] <= 1
    )
    log = (spot_teacher / "log" / "metrics.csv").read_text().splitlines()[0]
    assert "validation/ndcg_at_10" in log and "validation/mean_label_distance_at_10" in log

    lightning.seed_everything(0, verbose=False)
    untrained = create_model("test_resnet", 16, pool="avgmax", image_size=32, crop_pct=1.0)
    before, after = (measure_by_labels(embed(m, test), test, facts.metric) for m in (untrained, model))
    # Of what there is to gain above the untrained network, which sees positions too, a good part.
    assert 1 - after.ndcg_at(10) < 0.7 * (1 - before.ndcg_at(10))
    assert after.label_distance_at(10) < 0.9 * before.label_distance_at(10)


@pytest.mark.parametrize(("loss", "metric"), [("dense_triplet", "cosine"), ("binary_triplet", "cosine")])
def test_rivals_by_name(loss: str, metric: str, spots: Path, spot_options: Any, tmp_path: Path) -> None:
    folder = train(
        f"csv:{spots / 'images.csv'}",
        tmp_path / "t",
        arch="test_resnet",
        dim=16,
        loss=loss,
        loss_options={"margin": 0.1},
        continuous_labels=spots / "positions.csv",
        neighbours=3,
        epochs=2,
        **spot_options,
    )
    facts = facts_of(load_model(folder))
    assert (facts.loss, facts.metric) == (loss, metric)
    rows = list(csv.DictReader((folder / "log" / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 2 * (80 // 24) and all(0 < value < 4.1 for value in losses)


def test_every_kind_of_label_distance_trains_the_same(spots: Path, spot_options: Any, tmp_path: Path) -> None:
    read = load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv")

    def relabelled(images: Any, kind: str) -> Any:
        rows = np.arange(len(images))
        if kind == "matrix":
            return replace(images, continuous=MatrixLabels(images.continuous.distances(rows, rows)))
        labels = FunctionLabels(rows, lambda a, b: images.continuous.distances(a, b))
        return replace(images, continuous=labels)

    states = []
    for kind in ("vectors", "matrix", "function"):
        splits = read
        if kind != "vectors":
            parts = {name: relabelled(getattr(read, name), kind) for name in ("train", "validation", "test")}
            splits = replace(read, **parts)
        folder = train(splits, tmp_path / kind, arch="test_resnet", dim=16, loss="log_ratio", epochs=1, **spot_options)
        states.append(load_model(folder).state_dict())
    for name, tensor in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_views_of_continuous_labels_are_not_mirrored_unless_asked_for(
    spots: Path, spot_options: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {name: value for name, value in spot_options.items() if name != "augment"} | {"epochs": 1}
    options |= {"loss": "log_ratio", "continuous_labels": spots / "positions.csv"}
    mild = train(f"csv:{spots / 'images.csv'}", tmp_path / "a", arch="test_resnet", dim=16, **options)
    assert facts_of(load_model(mild)).options["augment"] == "mild" and "mirrors" not in caplog.text
    train(f"csv:{spots / 'images.csv'}", tmp_path / "b", arch="test_resnet", dim=16, augment="photo", **options)
    assert "augment photo mirrors images" in caplog.text


def test_training_on_continuous_labels_resumes(
    spots: Path, spot_options: Any, tmp_path: Path, interrupted_in: Any
) -> None:
    options = spot_options | {"loss": "log_ratio", "continuous_labels": spots / "positions.csv", "epochs": 3}
    data = f"csv:{spots / 'images.csv'}"
    whole = train(data, tmp_path / "whole", arch="test_resnet", dim=16, **options)

    with interrupted_in(2):
        train(data, tmp_path / "parts", arch="test_resnet", dim=16, **options)
    parts = train(data, tmp_path / "parts", arch="test_resnet", dim=16, **options)
    models = load_model(whole), load_model(parts)
    assert facts_of(models[0]).measured == facts_of(models[1]).measured
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    (tmp_path / "other.csv").write_text((spots / "positions.csv").read_text().replace("0.png,0.", "0.png,1.", 1))
    with pytest.raises(OptionError, match=r"continuous_labels .* data_digest"):
        train(
            data,
            tmp_path / "parts",
            arch="test_resnet",
            dim=16,
            **(options | {"continuous_labels": tmp_path / "other.csv"}),
        )


def test_a_loss_for_classes_is_judged_by_classes(photos: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{photos}", validation=0.34)
    labels = tmp_path / "labels.csv"
    names = [name for part in (data.train, data.validation, data.test) for name in part.ids]
    labels.write_text("path,x\n" + "\n".join(f"{name},{at}" for at, name in enumerate(names)))
    options = QUICK | {"epochs": 1, "continuous_labels": labels}
    by_class = train(f"folder:{photos}", tmp_path / "a", arch="test_resnet", rotate_classes=True, **options)
    assert set(facts_of(load_model(by_class)).measured["validation"]) == {"epoch", "recall_at_1", "map_at_r"}
    by_labels = train(f"folder:{photos}", tmp_path / "b", arch="test_resnet", loss="log_ratio", **options)
    facts = facts_of(load_model(by_labels))
    assert set(facts.measured["validation"]) == {"epoch", "ndcg_at_10", "mean_label_distance_at_10"}
    assert facts.data["validation"] == {"images": 16, "classes": 2}


def test_without_validation_nothing_is_measured(spots: Path, spot_options: Any, tmp_path: Path) -> None:
    options = spot_options | {"continuous_labels": spots / "positions.csv", "validation": 0.0, "epochs": 2}
    folder = train(
        f"csv:{spots / 'images.csv'}", tmp_path / "t", arch="test_resnet", dim=16, loss="log_ratio", **options
    )
    assert facts_of(load_model(folder)).measured["validation"] == {"epoch": 2, "ndcg_at_10": None}


def test_losses_and_labels_that_do_not_go_together(spots: Path, photos: Path, tmp_path: Path) -> None:
    data, labels = f"csv:{spots / 'images.csv'}", spots / "positions.csv"
    with pytest.raises(DataError, match=r"has no continuous labels, and log_ratio needs them\. Give continuous_labels"):
        train(data, tmp_path / "a", arch="test_resnet", dim=8, loss="log_ratio")
    with pytest.raises(DataError, match=r"has no labels, and proxy_anchor needs them\. Train with log_ratio on"):
        train(data, tmp_path / "b", arch="test_resnet", dim=8, continuous_labels=labels)
    with pytest.raises(OptionError, match="rotate_classes rotates images, and log_ratio has no labels"):
        train(
            data,
            tmp_path / "c",
            arch="test_resnet",
            dim=8,
            loss="log_ratio",
            continuous_labels=labels,
            rotate_classes=True,
        )
    with pytest.raises(OptionError, match="photo-mixed shows two images in one view, which then has no label"):
        train(data, tmp_path / "e", arch="test_resnet", dim=8, loss="log_ratio", augment="photo-mixed")
    with pytest.raises(OptionError, match=r"neighbours is 119; it must lie in 1\.\.78"):
        train(
            data,
            tmp_path / "d",
            arch="test_resnet",
            dim=8,
            loss="log_ratio",
            continuous_labels=labels,
            neighbours=119,
            image_size=32,
            workers=0,
        )


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_trains_with_clipped_gradients(photos: Path, tmp_path: Path, precision: str) -> None:
    # Lightning refuses to clip the gradients of a fused optimiser in mixed precision.
    options: dict[str, Any] = {"image_size": 32, "epochs": 1, "batch_size": 8, "images_per_class": 2}
    folder = train(f"folder:{photos}", tmp_path / "out", arch="test_resnet", dim=8, precision=precision, **options)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; it must be at least 0"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0"),
        ({"proxy_lr_factor": -1.0}, "proxy_lr_factor is -1.0"),
        ({"step_factor": 0.0}, "step_factor is 0.0"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296; it must be at most"),
        ({"num_nodes": 0}, "num_nodes is 0"),
        ({"precision": "fp16"}, "Unknown precision 'fp16'; known are 32-true, bf16-mixed"),
        ({"devices": 0}, "devices 0"),
        ({"loss_options": {"margin": "abc"}}, "margin of loss 'proxy_anchor' is 'abc'; it must be a number"),
        ({"loss_options": {"alpha": 0}}, "alpha is 0; it must be above 0"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, Any], message: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **(QUICK | options))


def test_one_class_or_one_image_is_nothing_to_train_on(photos: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{photos}", validation=0)
    first = np.flatnonzero(data.train.labels == 0)
    with pytest.raises(DataError, match="one training class after split 'auto', but proxy_anchor needs at least two"):
        train(replace(data, train=data.train.subset(first)), tmp_path / "a", arch="test_resnet", **QUICK)
    with pytest.raises(DataError, match="has 1 training image after split 'auto'; at least 2 are needed"):
        train(replace(data, train=data.train.subset([0])), tmp_path / "b", arch="test_resnet", **QUICK)
    single = data.test.subset([0, 8, 16])
    with pytest.raises(DataError, match="No validation query has another image of its class"):
        train(replace(data, validation=single), tmp_path / "c", arch="test_resnet", **QUICK)


def test_training_that_diverged_is_not_saved(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("diverging")
    module.Diverging = type(  # type: ignore[attr-defined]
        "Diverging",
        (nn.Module,),
        {
            "__init__": lambda self, num_classes, dim: nn.Module.__init__(self),
            "forward": lambda self, embeddings, labels: embeddings.sum() * float("nan"),
        },
    )
    monkeypatch.setitem(sys.modules, "diverging", module)
    for validation in (0.0, 0.34):
        with pytest.raises(DivergedError, match=r"Training diverged in epoch 1 of 1: .*Lower lr, which is 0\.002"):
            options = QUICK | {"validation": validation, "epochs": 1, "gradient_clip": None}
            out = tmp_path / str(validation)
            train(f"folder:{photos}", out, arch="test_resnet", loss="diverging:Diverging", **options)
        assert not (out / "config.json").exists()


@pytest.mark.parametrize(("validation", "what"), [(0.34, "embeddings are"), (0.0, "weights are")])
def test_a_rate_far_too_high_is_told_with_its_epoch(photos: Path, tmp_path: Path, validation: float, what: str) -> None:
    options = QUICK | {"validation": validation, "epochs": 4, "lr": 1e6}
    with pytest.raises(
        DivergedError, match=rf"diverged in epoch \d of 4: {what} no longer finite\. Lower lr, which is"
    ):
        train(photos, tmp_path / "t", arch="test_resnet", **options)
    assert not (tmp_path / "t" / "config.json").exists()


def test_training_does_not_ask_for_the_working_directory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    out = train(photos, tmp_path / "t", arch="test_resnet", **QUICK | {"epochs": 1})
    assert (out / "config.json").is_file()


def test_what_validation_measured_outlasts_an_interruption_and_a_broken_checkpoint_is_named(
    photos: Path, tmp_path: Path, interrupted_in: Any
) -> None:
    options = QUICK | {"epochs": 3}

    with interrupted_in(2):
        train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    checkpoint = tmp_path / "t" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        checkpoint.write_bytes(content)
        with pytest.raises(ModelError, match=r"last\.ckpt cannot be read .*Remove it to begin this stage again"):
            train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    checkpoint.write_bytes(whole)
    best = checkpoint.with_name("best.safetensors")
    weights = best.read_bytes()
    best.write_bytes(weights[:100])
    with pytest.raises(ModelError, match=r"best\.safetensors cannot be read .*to train again"):
        train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    best.write_bytes(weights)
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    measured = json.loads((folder / "validation.json").read_text())
    assert [entry["epoch"] for entry in measured] == [1, 2, 3]
    best = facts_of(load_model(folder)).measured["validation"]
    assert best["map_at_r"] == round(max(entry["map_at_r"] for entry in measured), 6)
