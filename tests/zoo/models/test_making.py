from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from zoo.errors import ModelError, OptionError
from zoo.files import digest
from zoo.models.making import create_model, pretrained_available, pretrained_source
from zoo.models.network import head_of


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
    monkeypatch.setattr("zoo.models.making.obstacle_to", lambda url: None)  # the server answers
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


@pytest.mark.parametrize("rename", [lambda name: f"backbone.{name}", lambda name: "foo"])
def test_a_weight_file_that_fits_nothing_is_refused(rename: Any, tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({rename(name): tensor for name, tensor in donor.state_dict().items()}, file)
    with pytest.raises(ModelError, match=r"does not fit test_resnet: 0 of its .* The file names (backbone\.|foo)"):
        create_model("test_resnet", 16, pretrained=file)


def test_a_weight_file_without_tensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({}, file)
    with pytest.raises(
        ModelError, match=r"does not fit test_resnet: 0 of its .* The file names none, the network conv1"
    ):
        create_model("test_resnet", 16, pretrained=file)


def test_the_own_pooling_is_taken_where_there_is_no_other(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("pit_ti_224", 8, pool="avgmax")
    assert "pit_ti_224 has no avgmax pooling; using its own" in caplog.text
    assert model.num_classes == 8
    with pytest.raises(ModelError, match=r"pit_ti_224 has no pooling 'max' .* Set pool to null"):
        create_model("pit_ti_224", 8, pool="max")


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(OptionError, match=r"crossvit_9_240 cannot take images of 96 pixels \(.*another image_size"):
        create_model("crossvit_9_240", 8, image_size=96)
    assert create_model("test_resnet", 8, image_size=40).training


def begun(folder: Path, **options: Any) -> Path:
    folder.mkdir()
    (folder / "options.json").write_text(json.dumps(options))
    return folder


def test_what_a_folder_was_begun_with_is_found_again(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    known = {"pretrained": str(weights), "pretrained_digest": digest(weights)[:16]}
    student = begun(tmp_path / "student", **known)
    assert pretrained_source(student) == weights
    assert pretrained_source(begun(tmp_path / "finished", student=str(student))) == weights
    assert pretrained_source(begun(tmp_path / "random", pretrained=False)) is False
    assert pretrained_source(begun(tmp_path / "published", pretrained=True)) is True
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    assert pretrained_source(shipped) is None
    for pretrained, expected in ((True, True), (False, False), ("w.safetensors", None)):
        facts = {"options": {"pretrained": pretrained}}
        (shipped / "config.json").write_text(json.dumps({"embedding_compressor": facts}))
        assert pretrained_source(shipped) is expected
    weights.write_bytes(b"others")
    assert pretrained_source(student) is None
    weights.unlink()
    assert pretrained_source(student) is None
    (student / "options.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"options\.json is not valid JSON \(it holds \[1\], not an object\)"):
        pretrained_source(student)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing downloaded before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("how", ["refused", "silent", "offline"])
def test_published_weights_without_a_network_are_told_at_once(
    how: str, no_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            if how == "silent":
                time.sleep(2)
            raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("zoo.models.making._PATIENCE", 0.2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", how == "offline")
    began = time.monotonic()
    said = {
        "refused": r" \(\[Errno 111\] Connection refused\)",
        "silent": r" \(no answer within 0\.2 s\)",
        "offline": "",
    }
    message = r"weights of test_resnet are not on this machine, and cannot be downloaded"
    bring = r"\. Copy model\.safetensors of timm/test_resnet\.r160_in1k"
    with pytest.raises(ModelError, match=message + said.get(how, "") + bring):
        create_model("test_resnet", 8, pretrained=True)
    assert time.monotonic() - began < 2
    assert len(asked) == (how != "offline")
    assert not pretrained_available("test_resnet")


def test_published_weights_that_are_here_need_no_network(
    no_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    published = timm.create_model("test_resnet")
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(published.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(file))
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("it asked"))
    assert pretrained_available("test_resnet")
    assert not pretrained_available("coatnet_1_224")  # which has none published
    model = create_model("test_resnet", 8, pretrained=True)
    assert torch.equal(next(iter(model.state_dict().values())), next(iter(published.state_dict().values())))
