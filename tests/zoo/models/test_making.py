from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from zoo.errors import ModelError, OptionError
from zoo.models.facts import ModelFacts, facts_of, set_facts
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model
from zoo.models.network import embed_with_maps, head_of, normalize_embeddings, preprocessing_of


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


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


def test_average_and_max_pooling_is_their_mean() -> None:
    torch.manual_seed(0)
    model = create_model("test_resnet", 8, pool="avgmax", image_size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.forward_features(x)
        pooled = 0.5 * (maps.mean((2, 3)) + maps.amax((2, 3)))
        torch.testing.assert_close(model(x), head_of(model)(pooled))


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "levit_128s", "deit_tiny_distilled_patch16_224"])
def test_head_is_orthogonal(arch: str) -> None:
    layers = [layer for layer in head_of(create_model(arch, 16)).modules() if isinstance(layer, torch.nn.Linear)]
    assert layers
    for layer in layers:
        torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_local_weights_load_into_the_backbone(tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(donor.state_dict(), file)
    model = create_model("test_resnet", 16, pretrained=file)
    for name, tensor in model.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(tensor, donor.state_dict()[name])


def test_local_weights_with_another_head_load_too(tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=37)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(donor.state_dict(), file)
    for dim in (16, 1000, 37):
        model = create_model("test_resnet", dim, pretrained=str(file))
        torch.testing.assert_close(model.state_dict()["conv1.0.weight"], donor.state_dict()["conv1.0.weight"])


def test_published_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fake(name: str, **options: object) -> torch.nn.Module:
        asked.update(options)
        return real(name, num_classes=8)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", fake)
    create_model("test_resnet", 8, pretrained=True)
    assert asked["pretrained"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet81", 8), ["resnet81", "Did you mean"]),
        (("mobilnetv3_small_100", 8), ["mobilenetv3_small_100"]),
        (("test_resnet", 8, "missing.safetensors"), ["missing.safetensors", "does not exist"]),
    ],
)
def test_mistakes_are_named(arguments: tuple[object, ...], words: list[str]) -> None:
    with pytest.raises(ModelError) as error:
        create_model(*arguments)  # type: ignore[arg-type]
    assert all(word in str(error.value) for word in words)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with pytest.raises(ModelError, match="pickles are not loaded"):
        create_model("test_resnet", 8, pretrained=file)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_efficientnet").state_dict(), file)
    with pytest.raises(ModelError, match="test_resnet"):
        create_model("test_resnet", 8, pretrained=file)


@pytest.mark.parametrize("options", [{"dim": 0}, {"dim": 8, "image_size": 2}, {"dim": 8, "crop_pct": 1.5}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        create_model("test_resnet", **options)  # type: ignore[arg-type]


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


def test_normalisation_matches_numpy() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(normalize_embeddings(torch.from_numpy(x)).numpy(), expected, atol=1e-6)
    assert torch.isfinite(normalize_embeddings(torch.zeros(1, 3))).all()


MAPPED = {
    "resnet18": [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
    "mobilenetv4_conv_small": [(32, 32, 32), (32, 16, 16), (64, 8, 8), (96, 4, 4), (960, 2, 2)],
    "mobilenetv3_small_100": [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)],
    "vit_tiny_patch16_224": [(192, 4, 4)] * 12,
    "deit_tiny_distilled_patch16_224": [(192, 4, 4)] * 12,
    "convnext_atto": [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2)],
    "fastvit_t8": [(48, 16, 16), (96, 8, 8), (192, 4, 4), (384, 2, 2)],
    "test_efficientnet": [(16, 32, 32), (24, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)],
}


@pytest.mark.parametrize("arch", MAPPED)
def test_maps_come_with_the_same_embedding(arch: str, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = create_model(arch, 8, pool=None if "it_tiny" in arch else "avgmax", image_size=64)
    for training in (False, True):
        model.train(training)
        torch.manual_seed(1)  # of dropout
        expected = model(images)
        torch.manual_seed(1)
        embeddings, maps = embed_with_maps(model, images)
        torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert [tuple(map_.shape[1:]) for map_ in maps] == MAPPED[arch]
    # The maps lie on the way: all parameters that the embedding trains are trained through this pass too.
    (embeddings.sum() + sum(map_.sum() for map_ in maps)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_network_without_maps_is_named() -> None:
    with pytest.raises(OptionError, match=r"Linear gives no feature maps .*relaxed_contrastive"):
        embed_with_maps(torch.nn.Linear(3, 2), torch.zeros(1, 3))


@pytest.mark.parametrize("rename", [lambda name: f"backbone.{name}", lambda name: "foo"])
def test_a_weight_file_that_fits_nothing_is_refused(rename: Any, tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({rename(name): tensor for name, tensor in donor.state_dict().items()}, file)
    with pytest.raises(ModelError, match=r"does not fit test_resnet: 0 of its .* The file names (backbone\.|foo)"):
        create_model("test_resnet", 16, pretrained=file)


def test_tensors_that_modules_share_are_saved(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32).eval()
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight  # as CoaT shares its position encodings
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert model.layer1[0].conv2.weight is model.layer1[0].conv1.weight


def test_the_own_pooling_is_taken_where_there_is_no_other(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("pit_ti_224", 8, pool="avgmax")
    assert "pit_ti_224 has no avgmax pooling: its own is used" in caplog.text
    assert model.num_classes == 8
    with pytest.raises(ModelError, match=r"pit_ti_224 has no pooling 'max' .* Set pool to null"):
        create_model("pit_ti_224", 8, pool="max")


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(OptionError, match=r"crossvit_9_240 cannot take images of 96 pixels \(.*another image_size"):
        create_model("crossvit_9_240", 8, image_size=96)
    assert create_model("test_resnet", 8, image_size=40).training
