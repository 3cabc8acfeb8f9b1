"""A model comes back from its folder as it was, here and in plain timm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from zoo.errors import ModelError
from zoo.models.facts import ModelFacts, facts_of, set_facts
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit", "mobilenetv4_conv_small"])
def test_saved_model_embeds_alike_in_plain_timm(arch: str, tmp_path: Path, images: torch.Tensor) -> None:
    model = create_model(arch, 24, image_size=64, pool="avgmax" if "vit" not in arch else None).eval()
    save_model(model, tmp_path / "model")
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(load_model(tmp_path / "model")(images), model(images), rtol=0, atol=1e-6)


def test_facts_and_preprocessing_come_back(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=48, crop_pct=0.8, pool="avgmax")
    data, teacher, measured = {"name": "glyphs"}, {"name": "t"}, {"v": {"x": 1}}
    facts = ModelFacts("euclidean", "relaxed_contrastive", {"lr": 0.1}, data, teacher, measured)
    set_facts(model, facts)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert facts_of(loaded) == facts
    assert preprocessing_of(loaded) == preprocessing_of(model)
    assert preprocessing_of(loaded).input_size == (48, 48)
    assert preprocessing_of(loaded).crop_pct == 0.8
    assert json.loads((tmp_path / "config.json").read_text())["global_pool"] == "avgmax"
    card = (tmp_path / "README.md").read_text()
    assert "euclidean" in card and "glyphs" in card and "8 dimensions" in card


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)
    save_model(create_model("test_resnet", 8), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)


def test_tensors_that_modules_share_are_saved(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32).eval()
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight  # as CoaT shares its position encodings
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert model.layer1[0].conv2.weight is model.layer1[0].conv1.weight
