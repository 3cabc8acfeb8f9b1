"""A model loads unchanged from its folder, here and in plain timm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch

from zoo.errors import ModelError
from zoo.formats.model_config import DIGESTS_KEY
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


def test_paths_of_this_machine_do_not_ship(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32)
    options = {
        "data": "folder:/home/me/secret/photos",
        "split": "list:/home/me/secret/split.yaml",
        "pretrained": "/home/me/secret/w.safetensors",
        "continuous_labels": "C:\\Users\\me\\secret\\labels.csv",
        "student": "~/secret/student/",
        "loss_options": {"weights": ["/mnt/secret/x.pt"], "alpha": 0.5},
        "loss": "proxy_anchor",
        "relative": "csv:data/table.csv",
    }
    facts = ModelFacts(options=options, data={"name": "folder:/home/me/secret/photos", "split": "auto"})
    set_facts(model, facts)
    save_model(model, tmp_path / "model")
    for name in ("config.json", "README.md"):
        assert "secret" not in (tmp_path / "model" / name).read_text()
    saved = facts_of(load_model(tmp_path / "model"))
    assert saved.data == {"name": "folder:photos", "split": "auto"}
    assert saved.options == {
        "data": "folder:photos",
        "split": "list:split.yaml",
        "pretrained": "w.safetensors",
        "continuous_labels": "labels.csv",
        "student": "student",
        "loss_options": {"weights": ["x.pt"], "alpha": 0.5},
        "loss": "proxy_anchor",
        "relative": "csv:data/table.csv",
    }
    assert facts_of(model).options["pretrained"] == "/home/me/secret/w.safetensors"  # the model in memory keeps it


def test_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(create_model("test_resnet", 8, image_size=32), tmp_path / "model")
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(("README.md", "config.json", "model.safetensors"), "0o640")


def test_a_network_that_makes_no_vector_is_refused(tmp_path: Path) -> None:
    """Without digests, as other tools write folders: values that each are possible, and do not fit together."""
    save_model(create_model("test_resnet", 8, image_size=32), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[DIGESTS_KEY]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path)(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
    config["model_args"]["global_pool"] = ""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"config\.json describes a network that makes no vector of an image of 32 x 32"
    ):
        load_model(tmp_path)
