from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressor import distill
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from zoo import ModelError, OptionError, load_data, load_model, measure
from zoo.embedding import embed
from zoo.label_retrieval import measure_by_labels, random_order
from zoo.models import create_model, facts_of


def recall(model: nn.Module, images: Any) -> float:
    return measure(embed(model, images), images, facts_of(model).metric).recall_at(1)


def test_student_learns_the_teacher(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = distil_options | {"epochs": 40}
    folder = distill(tiny_teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **options)
    student = load_model(folder)
    facts = facts_of(student)
    assert facts.metric == "euclidean"
    assert facts.loss == "relaxed_contrastive"
    assert facts.teacher is not None and facts.teacher["name"] == "teacher"
    assert facts.measured["teacher on validation"]["recall_at_1"] > 0.5
    splits = load_data(f"folder:{photos}", validation=0.34)
    assert recall(student, splits.test) > 0.75
    # It keeps the teacher's relations better than before it learned.
    torch.manual_seed(0)
    untrained = create_model("test_efficientnet", 8, pool="avgmax", image_size=32, crop_pct=1.0)
    teacher = torch.from_numpy(embed(load_model(tiny_teacher), splits.train))
    loss = RelaxedContrastiveLoss()
    before, after = (float(loss(torch.from_numpy(embed(m, splits.train)), teacher)) for m in (untrained, student))
    assert after < 0.95 * before


@pytest.mark.parametrize("loss", ["relaxed_multi_similarity", "rkd", "pkt", "darkrank"])
def test_other_losses_by_name(loss: str, photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = distil_options | {"epochs": 1, "loss": loss}
    folder = distill(tiny_teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **options)
    facts = facts_of(load_model(folder))
    assert facts.loss == loss
    assert facts.metric == ("cosine" if loss in ("pkt", "darkrank") else "euclidean")


def test_images_without_labels(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in photos.rglob("*.png"):
        shutil.copy(file, flat / f"{file.parent.name}-{file.name}")
    options = distil_options | {"epochs": 4}
    student = load_model(distill(tiny_teacher, "test_efficientnet", 8, f"folder:{flat}", tmp_path / "s", **options))
    assert facts_of(student).measured["validation"] == {"epoch": 4, "recall_at_1": None}
    assert recall(student, load_data(f"folder:{photos}").test) > 0.6


def test_teacher_from_embeddings_by_image_id(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    splits = load_data(f"folder:{photos}", validation=0.34)
    teacher = load_model(tiny_teacher)
    table = {}
    for part in (splits.train, splits.validation):
        table |= dict(zip(part.ids, embed(teacher, part), strict=True))
    options = distil_options | {"epochs": 4}
    folder = distill(table, "test_efficientnet", 8, splits, tmp_path / "s", **options)
    facts = facts_of(load_model(folder))
    expected = facts_of(teacher).measured["validation"]["recall_at_1"]
    assert facts.measured["teacher on validation"]["recall_at_1"] == pytest.approx(expected, abs=1e-6)


def test_a_module_is_put_in_eval_mode(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    teacher = load_model(tiny_teacher).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distill(teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **(distil_options | {"epochs": 1}))
    assert not teacher.training
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_teacher_no_better_than_chance_stops_the_run(photos: Path, tmp_path: Path, distil_options: Any) -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(x), 8)

    torch.manual_seed(0)
    with pytest.raises(ModelError, match="no better than chance"):
        distill(Noise(), "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **distil_options)
    assert not (tmp_path / "s" / "config.json").exists()


def test_another_teacher_is_noticed(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = distil_options | {"epochs": 4}
    teacher = load_model(tiny_teacher)
    distill(teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **options)
    with torch.no_grad():
        next(iter(teacher.parameters())).mul_(1.01)
    with pytest.raises(OptionError, match="teacher_digest"):
        distill(teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **options)


def test_teacher_and_student_of_different_sizes(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"epochs": 1, "image_size": 48}
    folder = distill(tiny_teacher, "test_efficientnet", 8, f"folder:{photos}", tmp_path / "s", **options)
    assert load_model(folder).pretrained_cfg["input_size"] == (3, 48, 48)


def test_a_teacher_of_continuous_labels_is_distilled_like_any_other(
    spots: Path, spot_teacher: Path, spot_options: Any, tmp_path: Path
) -> None:
    data, labels = f"csv:{spots / 'images.csv'}", spots / "positions.csv"
    options = spot_options | {"continuous_labels": labels, "epochs": 12, "batch_size": 16}
    folder = distill(spot_teacher, "test_efficientnet", 8, data, tmp_path / "s", **options)
    facts = facts_of(load_model(folder))
    assert facts.data["validation"] == {"images": 20}
    # The same images were held out as for the teacher, and it measures there what it did.
    of_teacher = facts_of(load_model(spot_teacher)).measured["validation"]["ndcg_at_10"]
    assert facts.measured["teacher on validation"] == {"ndcg_at_10": pytest.approx(of_teacher, abs=1e-6)}
    assert set(facts.measured["validation"]) == {"epoch", "ndcg_at_10"}
    test = load_data(data, continuous_labels=labels).test
    result = measure_by_labels(embed(load_model(folder), test), test, facts.metric)
    chance = np.mean([dealt.ndcg_at(10) for dealt in random_order(result, test)])
    assert result.ndcg_at(10) > chance + 0.5 * (1 - chance)


def test_a_teacher_that_knows_nothing_of_continuous_labels_stops_the_run(
    spots: Path, spot_options: Any, tmp_path: Path
) -> None:
    data = load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv")
    random = np.random.default_rng(0)
    table = {name: random.normal(size=4) for part in (data.train, data.validation) for name in part.ids}
    with pytest.raises(ModelError, match=r"no better than chance: nDCG@10"):
        distill(table, "test_efficientnet", 8, data, tmp_path / "s", **spot_options)
