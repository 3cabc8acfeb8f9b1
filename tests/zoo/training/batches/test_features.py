"""A frozen backbone: its features are computed once, and the head learns the same from them as from images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import zoo.training.batches.features
import zoo.training.learner
import zoo.training.start
from zoo import load_data, train
from zoo.data.image_set import ImageSet
from zoo.models.embedding import embed, embed_pooled
from zoo.models.folder import load_model
from zoo.models.making import create_model
from zoo.training.batches.features import Features, embed_features

QUICK = {"image_size": 32, "crop_pct": 1.0, "batch_size": 16, "images_per_class": 4, "workers": 0, "seed": 1}


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "mobilenetv4_conv_small_050"])
def test_features_through_the_head_are_embeddings(photos: Path, arch: str) -> None:
    model, images = create_model(arch, 8, image_size=32), load_data(f"folder:{photos}").test
    features = Features(model, images)
    shown, index = features[3, 99]
    assert (len(features), index, shown.shape[0], shown.dtype) == (len(images), 3, 1, torch.float32)
    with torch.no_grad():
        made = embed_features(model, torch.cat([features[row, 0][0] for row in range(len(images))]))
    assert torch.allclose(made, torch.from_numpy(embed(model, images)), atol=1e-5)


@pytest.mark.parametrize("pretrained", [False, True])
def test_each_image_is_embedded_once_however_many_epochs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    embedded: list[int] = []

    def counted(model: nn.Module, images: ImageSet, progress: bool = True) -> np.ndarray:
        embedded.append(len(images))
        return embed_pooled(model, images, progress)

    monkeypatch.setattr(zoo.training.batches.features, "embed_pooled", counted)
    monkeypatch.setattr(zoo.training.learner, "embed_pooled", counted)
    monkeypatch.setattr(zoo.training.start, "embed_pooled", counted)
    weights = tmp_path / "weights.safetensors"
    save_file(create_model("test_resnet", 8).state_dict(), weights)
    options = QUICK | {"pretrained": weights if pretrained else False}
    options |= {"validation": 0.34, "epochs": 4, "lr": 1e-2, "freeze": "backbone"}
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", dim=8, **options)  # type: ignore[arg-type]
    splits = load_data(f"folder:{photos}", validation=0.34)
    assert sorted(embedded) == sorted([len(splits.train), len(splits.validation)])
    assert load_model(folder).num_classes == 8


def test_the_head_learns_what_it_would_on_images_as_tested(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(name: str) -> list[float]:
        options = QUICK | {"validation": 0, "epochs": 2, "lr": 1e-2, "freeze": "backbone", "augment": "none"}
        folder = train(f"folder:{photos}", tmp_path / name, arch="test_resnet", dim=8, **options)  # type: ignore[arg-type]
        rows = csv.DictReader((folder / "log" / "metrics.csv").open())
        return [float(row["train/loss"]) for row in rows if row["train/loss"]]

    once = losses("once")
    monkeypatch.setattr(zoo.training.learner, "linear_head_of", lambda model: None)  # as where there is no one layer
    assert once == pytest.approx(losses("each"), rel=5e-3)  # views are rounded to bytes
    assert len(set(once)) == len(once) > 3
