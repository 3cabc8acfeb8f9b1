"""Students of any kind: variants of timm's networks, model folders to continue from, the user's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from compressor import distill
from export import Embedder, to_onnx, validate
from zoo import ModelError, OptionError, create_model, load_data, load_model, save_model, train
from zoo.models.embedding import embed
from zoo.models.facts import facts_of
from zoo.models.network import preprocessing_of
from zoo.training.students import with_folder


class Own(nn.Module):
    """A module that timm does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.layers(pixels)
        return embeddings


def is_padded_as_tensorflow_does(model: nn.Module) -> bool:
    return any("Same" in type(module).__name__ for module in model.modules())


@pytest.mark.parametrize("arch", ["test_efficientnet", "tf_efficientnet_lite0"])
def test_arguments_of_timm_are_given_saved_and_exported(arch: str, tmp_path: Path) -> None:
    more = {"pad_type": "same"} if arch == "test_efficientnet" else {"drop_path_rate": 0.1}
    model = create_model(arch, 8, image_size=48, arch_options=more).eval()
    assert is_padded_as_tensorflow_does(model)
    assert not is_padded_as_tensorflow_does(create_model("test_efficientnet", 8))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert is_padded_as_tensorflow_does(again)
    shown = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(again(shown), model(shown))
    if arch == "test_efficientnet":
        image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        found = Embedder(to_onnx(again, tmp_path / "model.onnx"))(image)
        assert found.shape == (8,)


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument 'padding_type'"):
        create_model("test_efficientnet", 8, arch_options={"padding_type": "same"})
    with pytest.raises(OptionError, match="arch_options has num_classes; give it as dim"):
        create_model("test_efficientnet", 8, arch_options={"num_classes": 3})


def test_an_overlay_may_be_null_but_nothing_else(tmp_path: Path) -> None:
    save_model(create_model("test_resnet", 8, image_size=32), tmp_path / "model")
    folder = {"arch": str(tmp_path / "model"), "pretrained": False, "dim": 8}
    for overlay, mean in ((None, (0.5, 0.5, 0.5)), ({"mean": (0.25, 0.5, 0.5)}, (0.25, 0.5, 0.5))):
        more = {"pretrained_cfg_overlay": overlay}
        assert preprocessing_of(create_model("test_resnet", 8, arch_options=more)).mean == mean
        found = with_folder(folder | {"arch_options": more})
        assert tuple(found["arch_options"]["pretrained_cfg_overlay"]["mean"]) == mean
    more = {"pretrained_cfg_overlay": "mean"}
    said = "pretrained_cfg_overlay of arch_options is 'mean'; it must be a mapping"
    with pytest.raises(OptionError, match=said):
        create_model("test_resnet", 8, arch_options=more)
    with pytest.raises(OptionError, match=said):
        with_folder(folder | {"arch_options": more})


def test_a_student_goes_on_from_a_student(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    still = distil_options | {"epochs": 1, "lr": 1e-12}  # weights stay where they begin
    still = {name: value for name, value in still.items() if name not in ("image_size", "crop_pct", "pool")}
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=str(tiny_teacher), dim=32, **still)
    images = load_data(f"folder:{photos}", validation=0.34).test
    begun, went_on = load_model(tiny_teacher), load_model(folder)
    assert preprocessing_of(went_on) == preprocessing_of(begun)
    assert facts_of(went_on).metric == facts_of(begun).metric
    expected, found = embed(begun, images), embed(went_on, images)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=str(tiny_teacher), dim=32, **still) == folder


def test_a_local_folder_of_timm_is_begun_with(photos: Path, tmp_path: Path) -> None:
    overlay = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "crop_pct": 0.9, "interpolation": "bicubic"}
    theirs = timm.create_model("test_efficientnet", pad_type="same", pretrained_cfg_overlay=overlay)
    timm.models.save_for_hf(theirs, tmp_path / "timm", safe_serialization=True)
    options: dict[str, Any] = {
        "dim": 8,
        "epochs": 1,
        "batch_size": 16,
        "workers": 0,
        "lr": 1e-12,
        "images_per_class": 4,
    }
    folder = train(f"folder:{photos}", tmp_path / "t", arch=str(tmp_path / "timm"), validation=0.34, **options)
    model = load_model(folder)
    assert is_padded_as_tensorflow_does(model)
    found = preprocessing_of(model)
    assert (found.input_size, found.mean, found.crop_pct) == ((32, 32), (0.5, 0.5, 0.5), 0.9)
    assert found.interpolation == "bicubic"
    assert torch.allclose(model.conv_stem.weight, theirs.conv_stem.weight, atol=1e-6)  # type: ignore[union-attr]
    with pytest.raises(OptionError, match=r"has weights of its own\. Remove pretrained"):
        train(f"folder:{photos}", tmp_path / "u", arch=str(tmp_path / "timm"), pretrained=True, **options)


def test_a_module_is_a_student(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    options = {name: value for name, value in distil_options.items() if name not in ("crop_pct", "pool")}
    network = Own()
    folder = distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=network, dim=6, **options | {"epochs": 1})
    with pytest.raises(ModelError, match=r"module of your own, 'Own', whose code is not in it.*network=your_module"):
        load_model(folder)
    loaded = load_model(folder, network=Own())
    data = load_data(f"folder:{photos}", validation=0.34)
    expected = embed(loaded, data.test)
    assert preprocessing_of(loaded).input_size == (32, 32)
    found = Embedder(to_onnx(loaded, tmp_path / "own.onnx"))
    assert found.dim == 6
    cosine = (found(data.test.pixels(i) for i in range(5)) * expected[:5]).sum(axis=1)
    if found.metric == "cosine":
        np.testing.assert_allclose(cosine / np.linalg.norm(expected[:5], axis=1), 1, atol=1e-4)
    rows = validate([loaded], tiny_teacher, data, tmp_path / "r", latency_runs=0, bootstrap=10).content["stages"]
    assert "Own" in [row["stage"] for row in rows]


def test_modules_that_cannot_be_students(photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any) -> None:
    with pytest.raises(OptionError, match=r"Own returns 6 dimensions, and dim is 8\. Set dim to 6"):
        create_model(Own(), 8, image_size=32)
    with pytest.raises(ModelError, match=r"must return a tensor \(N, D\)"):
        create_model(nn.Conv2d(3, 4, 3), 4, image_size=32)
    frozen = distil_options | {"freeze": "backbone"}
    with pytest.raises(OptionError, match="Own is a module of your own, whose head is unknown"):
        distill(tiny_teacher, f"folder:{photos}", tmp_path / "s", arch=Own(), dim=6, **frozen)
