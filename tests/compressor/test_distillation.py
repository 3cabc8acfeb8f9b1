from __future__ import annotations

import csv
import inspect
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor import distill
from compressor.losses import LOSSES
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from zoo import ImageSet, ModelError, OptionError, load_data, load_model, measure, train
from zoo.models.embedding import embed
from zoo.models.facts import facts_of, set_facts
from zoo.models.making import create_model
from zoo.retrieval.label_measures import measure_by_labels, random_order
from zoo.teachers.torch_module import TorchTeacher
from zoo.training.fitting import Interrupted
from zoo.training.learner import Learner


def recall(model: nn.Module, images: Any) -> float:
    return measure(embed(model, images), images, facts_of(model).metric).recall_at(1)


def test_student_learns_the_teacher(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = distil_options | {"epochs": 40}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
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


def test_a_student_of_its_teachers_network_begins_elsewhere(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    arch, dim = "test_resnet", facts_of(load_model(tiny_teacher)).options["dim"]
    still = distil_options | {"epochs": 1, "lr": 1e-12, "seed": 3}  # weights stay where they begin
    own = {name: value for name, value in still.items() if name in inspect.signature(train).parameters}
    teacher = load_model(train(f"folder:{photos}", tmp_path / "t", arch=arch, dim=dim, **own | {"warmup_epochs": 0}))
    student = load_model(distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=arch, dim=dim, **still))
    one, other = (dict(model.named_parameters())["layer1.0.conv1.weight"] for model in (teacher, student))
    assert one.shape == other.shape and not torch.isclose(one, other).any()


def losses_of(folder: Path) -> list[float]:
    rows = csv.DictReader((folder / "log" / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.fixture
def flat(photos: Path, tmp_path: Path) -> Path:
    """The photos in one folder: unlabelled."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for file in photos.rglob("*.png"):
        shutil.copy(file, folder / f"{file.parent.name}-{file.name}")
    return folder


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "relaxed_contrastive"])
def test_other_losses_by_name(
    loss: str, arch: str, photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": loss, "proxy_lr_factor": 20, "pool": None}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=arch, dim=8, **options)
    facts = facts_of(load_model(folder))
    assert facts.loss == loss
    assert facts.metric == ("euclidean" if loss in ("relaxed_multi_similarity", "rkd") else "cosine")
    losses = losses_of(folder)
    assert len(losses) == 4 and np.isfinite(losses).all()


@pytest.mark.parametrize("loss", ["fitnet", "attention", "crd", "darkrank"])
def test_losses_with_a_term_on_labels_learn(
    loss: str, photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": loss, "epochs": 10, "proxy_lr_factor": 20}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    losses = losses_of(folder)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert recall(load_model(folder), load_data(f"folder:{photos}").test) > 0.75


def test_feature_maps_in_reduced_precision(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    exact = distil_options | {"loss": "fitnet", "epochs": 1}
    reduced = exact | {"precision": "bf16-mixed", "teacher_precision": "bf16"}
    losses = [
        losses_of(
            distill(tiny_teacher, f"folder:{photos}", tmp_path / name, arch="test_efficientnet", dim=8, **options)
        )
        for name, options in (("exact", exact), ("reduced", reduced))
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("fitnet", "attention")])
def test_losses_that_do_without_labels(
    loss: str, flat: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": loss, "epochs": 1}
    folder = distill(tiny_teacher, f"folder:{flat}", tmp_path / "s", arch="test_resnet", dim=8, **options)
    assert facts_of(load_model(folder)).measured["validation"] == {"epoch": 1, "recall_at_1": None}


@pytest.mark.parametrize("loss", ["fitnet", "attention"])
def test_losses_that_need_labels(
    loss: str, photos: Path, flat: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": loss, "epochs": 1}
    for data, more in ((flat, {}), (photos, {"use_labels": False})):
        with pytest.raises(OptionError, match=f"'{loss}' needs labels.*use_labels.*relaxed_contrastive"):
            distill(tiny_teacher, f"folder:{data}", tmp_path / "s", arch="test_resnet", dim=8, **options, **more)


def test_without_use_labels_a_loss_gets_none(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": "darkrank", "epochs": 1, "use_labels": False, "images_per_class": 4}
    weights = [
        load_model(
            distill(tiny_teacher, f"folder:{photos}", tmp_path / name, arch="test_resnet", dim=8, **options, **more)
        )
        for name, more in (("a", {}), ("b", {"loss_options": {"triplet_weight": 9.0}}))
    ]
    for a, b in zip(*(model.parameters() for model in weights), strict=True):
        assert torch.equal(a, b)


def test_feature_maps_of_a_teacher_that_has_none(photos: Path, tmp_path: Path, distil_options: Any) -> None:
    # The mean colour of 8 x 8 parts, as an ONNX file of another make.
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 32, 32])
    vector = onnx.helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, ["N", 192])
    pool = onnx.helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4])
    flatten = onnx.helper.make_node("Flatten", ["pooled"], ["vector"])
    graph = onnx.helper.make_graph([pool, flatten], "colours", [image], [vector])
    version = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[version], ir_version=10), tmp_path / "teacher.onnx")
    distil = partial(distill, tmp_path / "teacher.onnx", f"folder:{photos}", tmp_path / "s", arch="test_resnet", dim=8)
    for loss in ("fitnet", "attention"):
        with pytest.raises(OptionError, match=r"teacher\.onnx gives no feature maps.*relaxed_contrastive"):
            distil(loss=loss, **distil_options)
    assert not (tmp_path / "s" / "checkpoints").exists()
    distil(loss="crd", **distil_options)  # whose last features are the embeddings, which any teacher gives


def test_a_memory_is_resumed(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = distil_options | {"loss": "crd", "loss_options": {"negatives": 20}, "epochs": 3, "validation": 0.0}
    whole = distill(tiny_teacher, f"folder:{photos}", tmp_path / "whole", arch="test_resnet", dim=8, **options)

    def stop_after_two(self: Any) -> None:
        original(self)
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    original = Learner.on_train_epoch_start
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_epoch_start", stop_after_two)
        with pytest.raises(Interrupted):
            distill(tiny_teacher, f"folder:{photos}", tmp_path / "parts", arch="test_resnet", dim=8, **options)
    torch.manual_seed(12345)  # whatever the process did before must not matter
    parts = distill(tiny_teacher, f"folder:{photos}", tmp_path / "parts", arch="test_resnet", dim=8, **options)
    states = [load_model(folder).state_dict() for folder in (whole, parts)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=1e-6, msg=name)


class Named(nn.Module):
    """A loss that is given all there is to name, and remembers it."""

    metric = "cosine"
    given: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        num_images: int,
        num_classes: int,
        student_dim: int,
        teacher_dim: int,
        student_channels: tuple[int, ...],
        teacher_channels: tuple[int, ...],
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.given.update({name: value for name, value in locals().items() if name not in ("self", "__class__")})

    def forward(
        self, student: Tensor, teacher: Tensor, image_ids: Tensor, *, labels: Tensor, student_maps: list[Tensor]
    ) -> Tensor:
        self.given.update(labels=labels, image_ids=image_ids, student_maps=student_maps, teacher=teacher)
        return student.square().mean()


def test_a_loss_of_ones_own_is_given_what_it_names(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("a_loss_of_ones_own")
    module.Named = Named  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    options = distil_options | {"loss": "a_loss_of_ones_own:Named", "loss_options": {"weight": 2.0}, "epochs": 1}
    options |= {"rotate_classes": True, "image_size": 64}
    distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    given = Named.given
    train = load_data(f"folder:{photos}", validation=0.34).train
    assert train.labels is not None
    count, classes = len(train), len(np.unique(train.labels))
    assert given["num_images"] == 4 * count and given["num_classes"] == 4 * classes
    assert (given["student_dim"], given["teacher_dim"], given["weight"]) == (8, 32, 2.0)
    assert given["student_channels"] == (24, 32, 48, 64) and given["teacher_channels"] == (32, 48, 192, 96)
    assert [map_.shape for map_ in given["student_maps"]] == [
        (32, channels, side, side) for channels, side in zip((24, 32, 48, 64), (16, 8, 4, 2), strict=True)
    ]
    assert given["teacher"].shape == (32, 32)
    # Ids are indices of images, turned ones among them; labels number their classes without gaps.
    dense = np.unique(train.labels, return_inverse=True)[1]
    expected = np.concatenate([dense + turns * classes for turns in range(4)])
    np.testing.assert_array_equal(given["labels"], expected[given["image_ids"]])


def test_images_without_labels(
    photos: Path, flat: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"epochs": 4}
    student = load_model(
        distill(tiny_teacher, f"folder:{flat}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    )
    assert facts_of(student).measured["validation"] == {"epoch": 4, "recall_at_1": None}
    assert recall(student, load_data(f"folder:{photos}").test) > 0.6


def test_images_all_in_one_class_folder(
    flat: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = distil_options | {"epochs": 1, "split": "all-train", "use_labels": False}
    folder = distill(tiny_teacher, f"folder:{flat.parent}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    assert facts_of(load_model(folder)).measured["validation"] == {"epoch": 1, "recall_at_1": None}
    assert "the labels cannot measure retrieval" in caplog.text


def test_teacher_from_embeddings_by_image_id(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    splits = load_data(f"folder:{photos}", validation=0.34)
    teacher = load_model(tiny_teacher)
    table = {}
    for part in (splits.train, splits.validation):
        table |= dict(zip(part.ids, embed(teacher, part), strict=True))
    options = distil_options | {"epochs": 4}
    folder = distill(table, splits, tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    facts = facts_of(load_model(folder))
    expected = facts_of(teacher).measured["validation"]["recall_at_1"]
    assert facts.measured["teacher on validation"]["recall_at_1"] == pytest.approx(expected, abs=1e-6)


def test_views_of_two_images_teach_what_the_teacher_makes_of_them(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": "similarity", "augment": "photo-mixed", "epochs": 10}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    losses = losses_of(folder)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert recall(load_model(folder), load_data(f"folder:{photos}").test) > 0.75


@pytest.mark.parametrize("loss", ["crd", "darkrank", "fitnet"])
def test_views_of_two_images_are_refused_where_each_is_taken_to_be_of_one(
    loss: str, photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"loss": loss, "augment": "photo-mixed"}
    with pytest.raises(OptionError, match=f"photo-mixed shows two images in one view, and loss {loss} takes each"):
        distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_resnet", dim=8, **options)


def test_stored_embeddings_have_no_views_of_two_images(photos: Path, tmp_path: Path, distil_options: Any) -> None:
    splits = load_data(f"folder:{photos}", validation=0.34)
    table = {each: np.arange(4.0) for part in (splits.train, splits.validation) for each in part.ids}
    with pytest.raises(OptionError, match=r"photo-mixed needs a teacher that embeds images; .* Use photo\."):
        distill(table, splits, tmp_path, arch="test_resnet", dim=8, **distil_options | {"augment": "photo-mixed"})


def test_a_module_is_put_in_eval_mode(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    teacher = load_model(tiny_teacher).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distill(
        teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **(distil_options | {"epochs": 1})
    )
    assert not teacher.training
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_teacher_no_better_than_chance_stops_the_run(photos: Path, tmp_path: Path, distil_options: Any) -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(x), 8)

    torch.manual_seed(0)
    with pytest.raises(ModelError, match="no better than chance"):
        distill(Noise(), f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **distil_options)
    assert not (tmp_path / "s" / "config.json").exists()


def test_another_teacher_is_noticed(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = distil_options | {"epochs": 4}
    teacher = load_model(tiny_teacher)
    distill(teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    with torch.no_grad():
        next(iter(teacher.parameters())).mul_(1.01)
    with pytest.raises(OptionError, match="teacher_digest"):
        distill(teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)


def test_teacher_and_student_of_different_sizes(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    options = distil_options | {"epochs": 1, "image_size": 48}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    assert load_model(folder).pretrained_cfg["input_size"] == (3, 48, 48)


def test_a_teacher_of_continuous_labels_is_distilled_like_any_other(
    spots: Path, spot_teacher: Path, spot_options: Any, tmp_path: Path
) -> None:
    data, labels = f"csv:{spots / 'images.csv'}", spots / "positions.csv"
    options = spot_options | {"continuous_labels": labels, "epochs": 12, "batch_size": 16}
    folder = distill(spot_teacher, data, tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    facts = facts_of(load_model(folder))
    assert facts.data["validation"] == {"images": 20}
    # The same images were held out as for the teacher, and it measures there what it did.
    of_teacher = facts_of(load_model(spot_teacher)).measured["validation"]["ndcg_at_10"]
    assert facts.measured["teacher on validation"] == {"ndcg_at_10": pytest.approx(of_teacher, abs=1e-6)}
    assert set(facts.measured["validation"]) == {"epoch", "ndcg_at_10", "mean_label_distance_at_10"}
    test = load_data(data, continuous_labels=labels).test
    result = measure_by_labels(embed(load_model(folder), test), test, facts.metric)
    chance = np.mean([dealt.ndcg_at(10) for dealt in random_order(result, test)])
    assert result.ndcg_at(10) > chance + 0.5 * (1 - chance)


def test_continuous_labels_judge_a_teacher_that_learned_from_them_where_there_are_classes_too(
    spots: Path, spot_teacher: Path, spot_options: Any, tmp_path: Path
) -> None:
    data = load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv")
    random = np.random.default_rng(1)

    def classed(images: ImageSet) -> ImageSet:  # classes that say nothing of the positions
        return replace(
            images, labels=random.permutation(np.arange(len(images)) // 2), class_names=list("abcdefghij") * 9
        )

    data = replace(data, train=classed(data.train), validation=classed(data.validation))
    options = spot_options | {"epochs": 1, "batch_size": 16}
    folder = distill(spot_teacher, data, tmp_path / "s", arch="test_efficientnet", dim=8, **options)
    measured = facts_of(load_model(folder)).measured
    assert set(measured["teacher on validation"]) == {"ndcg_at_10"}
    assert set(measured["validation"]) == {"epoch", "ndcg_at_10", "mean_label_distance_at_10"}
    network = load_model(spot_teacher)
    set_facts(network, replace(facts_of(network), measured={}))  # one of which nothing is known
    with pytest.raises(ModelError, match="no better than chance: Recall@1"):
        distill(network, data, tmp_path / "u", arch="test_efficientnet", dim=8, **options)


def test_a_teacher_that_knows_nothing_of_continuous_labels_stops_the_run(
    spots: Path, spot_options: Any, tmp_path: Path
) -> None:
    data = load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv")
    random = np.random.default_rng(0)
    table = {name: random.normal(size=4) for part in (data.train, data.validation) for name in part.ids}
    with pytest.raises(ModelError, match=r"no better than chance: nDCG@10"):
        distill(table, data, tmp_path / "s", arch="test_efficientnet", dim=8, **spot_options)


def test_the_teacher_embeds_each_numbered_view_once(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    embed_views = TorchTeacher.embed_views

    def counted(self: TorchTeacher, views: Tensor, *rest: Any) -> Tensor:
        seen.append(len(views))
        return embed_views(self, views, *rest)

    monkeypatch.setattr(TorchTeacher, "embed_views", counted)
    options = distil_options | {"epochs": 6, "teacher_views": 3, "views": 2}
    distill(tiny_teacher, f"folder:{photos}", tmp_path / "alone", **options)
    images = len(load_data(f"folder:{photos}").train)
    assert sum(seen) <= 3 * images + 1  # and a blank one
    assert not list((tmp_path / "alone").rglob("views-*"))  # with the checkpoints, they go at the end
    cache = {"teacher_cache": tmp_path / "cache"}
    distill(tiny_teacher, f"folder:{photos}", tmp_path / "first", **options, **cache)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "first")]
    assert weights[0] == weights[1]
    seen.clear()
    distill(tiny_teacher, f"folder:{photos}", tmp_path / "second", **options | {"lr": 0.02}, **cache)
    assert sum(seen) == 1


def test_numbered_views_that_cannot_be(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    with pytest.raises(OptionError, match="teacher_views is 1; it must be at least views, which is 2"):
        distill(tiny_teacher, f"folder:{photos}", tmp_path, **distil_options | {"teacher_views": 1, "views": 2})
    with pytest.raises(OptionError, match="teacher_views keeps embeddings, and this loss needs"):
        distill(
            tiny_teacher, f"folder:{photos}", tmp_path, **distil_options | {"teacher_views": 4, "loss": "attention"}
        )


def test_the_precision_chosen_for_the_teacher_is_said(
    photos: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    distil_options: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.teachers.torch_module.bfloat16_is_fast", lambda device: True)
    caplog.set_level("INFO")
    options = distil_options | {"epochs": 1, "teacher_precision": "auto"}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch="test_resnet", dim=4, **options)
    assert "embeds views in bf16 (teacher_precision auto)" in caplog.text
    assert facts_of(load_model(folder)).options["teacher_precision"] == "auto"


def test_a_teacher_behind_its_student_is_warned_of(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load_data(f"folder:{photos}", validation=0.34)
    rows = {}
    for images in (splits.train, splits.validation):
        assert images.labels is not None
        # So much noise on the classes that it is far above chance, and behind a network trained on them.
        noise = np.random.default_rng(0).normal(0, 0.35, size=(len(images), 16))
        rows |= dict(zip(images.ids, np.eye(16)[images.labels] + noise, strict=True))
    weights = tiny_teacher / "model.safetensors"
    options = distil_options | {"arch": "test_resnet", "dim": 8, "pretrained": weights, "epochs": 1}
    with caplog.at_level("INFO"):
        folder = distill(rows, splits, tmp_path / "s", **options)
    measured = facts_of(load_model(folder)).measured
    start, teacher = measured["validation"]["start"], measured["teacher on validation"]
    before = start["measured"][start["head"]]
    assert before["map_at_r"] > teacher["map_at_r"]
    told = f"Recall@1 {100 * before['recall_at_1']:.2f} %, MAP@R {100 * before['map_at_r']:.2f} %"
    assert f"Before training, the student retrieves better on the validation images ({told})" in caplog.text
    assert "Train a teacher on your classes with compressor train" in caplog.messages[-1]
    assert measured["validation"]["epoch"] == 0
    caplog.clear()
    with caplog.at_level("INFO"):
        distill(tiny_teacher, splits, tmp_path / "t", **options)
    assert "retrieves better" not in caplog.text


class FailsOnSomeViews(nn.Module):
    """A good teacher of sets of images, and none of a training batch: 12 images, or two views of each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Tensor) -> Tensor:
        vectors: Tensor = self.model(views)
        return vectors * float("nan") if len(views) in (12, 24) else vectors


def test_a_teacher_that_fails_in_training_is_blamed_and_not_the_rate(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    teacher = FailsOnSomeViews(load_model(tiny_teacher))
    with pytest.raises(ModelError, match=r"FailsOnSomeViews gave vectors that are not finite for views of epoch 1\."):
        distill(teacher, photos, tmp_path / "s", arch="test_resnet", dim=8, **distil_options | {"batch_size": 12})
    assert not (tmp_path / "s" / "config.json").exists()
