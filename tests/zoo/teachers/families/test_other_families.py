"""Models of timm, torchvision, open_clip and sentence-transformers embed as in their own libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from zoo.errors import MissingExtraError, ModelError, OptionError
from zoo.models.folder import save_model
from zoo.models.making import create_model
from zoo.teachers.opening import open_teacher

from .conftest import ours, require_alike


@torch.no_grad()
def theirs(network: Any, transform: Any, files: list[Path]) -> np.ndarray:
    """Embed as a library's own pages show: its transform of a PIL image, its network."""
    return np.concatenate([network(transform(Image.open(file).convert("RGB"))[None]).numpy() for file in files])


def timm_folder(folder: Path, name: str, **config: Any) -> Any:
    network = timm.create_model(name, pretrained_cfg_overlay=config, num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return network


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("test_resnet", {"input_size": (3, 64, 64), "crop_pct": 0.95, "interpolation": "bicubic"}),
        ("test_vit", {"crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ("test_resnet", {"input_size": (3, 96, 96), "crop_pct": 1.0, "crop_mode": "squash"}),
        ("test_efficientnet", {"input_size": (3, 96, 64), "crop_pct": 0.9, "interpolation": "bilinear"}),
    ],
)
def test_a_timm_folder_embeds_as_timm_does(
    name: str, config: dict[str, Any], odd_photos: list[Path], tmp_path: Path
) -> None:
    network = timm_folder(tmp_path, name, **config)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    network.reset_classifier(0)
    teacher = open_teacher(f"timm:{tmp_path}")
    assert any("classifier of 10 classes is left out" in note for note in teacher.notes)
    require_alike(ours(teacher, odd_photos), theirs(network, transform, odd_photos))


def test_heads_that_embed_stay(tmp_path: Path) -> None:
    timm_folder(tmp_path / "plain", "test_resnet")
    assert open_teacher(f"timm:{tmp_path / 'plain'}#head").module.num_classes == 10  # type: ignore[attr-defined]
    save_model(create_model("test_resnet", 8), tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["num_classes"] == 8
    tokens = {output: timm_tokens(tmp_path / "vit", output) for output in ("cls", "mean")}
    assert not np.allclose(tokens["cls"], tokens["mean"])
    with pytest.raises(OptionError, match="known are #head, #pooled, #cls, #mean"):
        open_teacher(f"timm:{tmp_path / 'plain'}#logits")


def timm_tokens(folder: Path, output: str) -> np.ndarray:
    if not folder.exists():
        timm_folder(folder, "test_vit")
    module = open_teacher(f"timm:{folder}#{output}").module  # type: ignore[attr-defined]
    with torch.no_grad():
        return module(torch.ones(1, 3, 160, 160)).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "tag"), [("resnet18", ""), ("mobilenet_v2", "IMAGENET1K_V1")])
def test_torchvision_embeds_as_torchvision_does(name: str, tag: str, odd_photos: list[Path], tmp_path: Path) -> None:
    network = torchvision.models.get_model(name, weights=None).eval()
    file = tmp_path / f"{name}.safetensors"
    save_file(network.state_dict(), file)
    kinds = torchvision.models.get_model_weights(name)
    last = "fc" if hasattr(network, "fc") else "classifier.1"
    network.set_submodule(last, torch.nn.Identity())
    teacher = open_teacher(f"torchvision:{name}{tag and '.'}{tag}/{file}")
    assert "classifier of 1,000 classes" in teacher.notes[0]
    assert teacher.name == f"torchvision:{name}{tag and '.'}{tag}/{name}.safetensors"
    transform = (kinds[tag] if tag else kinds.DEFAULT).transforms()
    require_alike(ours(teacher, odd_photos[-3:]), theirs(network, transform, odd_photos[-3:]))


def test_torchvision_without_a_file_names_the_command() -> None:
    with pytest.raises(ModelError, match=r"save_file\(torchvision.models.resnet50\(weights='IMAGENET1K_V2'\)"):
        open_teacher("torchvision:resnet50")
    with pytest.raises(ModelError, match=r"no such network. Did you mean resnet50"):
        open_teacher("torchvision:resnet5")


def open_clip_folder(folder: Path, **preprocess: Any) -> Any:
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    said = {"size": 48, "mode": "RGB", "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]} | preprocess
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": said}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.model.CLIP(24, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return open_clip.create_model_from_pretrained(f"local-dir:{folder}")


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_open_clip_embeds_as_open_clip_does(mode: str, odd_photos: list[Path], tmp_path: Path) -> None:
    model, transform = open_clip_folder(tmp_path, resize_mode=mode, interpolation="bicubic")
    teacher = open_teacher(f"open_clip:{tmp_path}")
    require_alike(ours(teacher, odd_photos), theirs(model.encode_image, transform, odd_photos))
    assert teacher.parameters() == sum(parameter.numel() for parameter in model.visual.parameters())
    assert open_teacher(tmp_path).digest == teacher.digest


def test_open_clip_without_projection(odd_photos: list[Path], tmp_path: Path) -> None:
    model, transform = open_clip_folder(tmp_path)
    model.visual.proj = None
    found = ours(open_teacher(f"open_clip:{tmp_path}#pooler_output"), odd_photos)
    assert found.shape[1] == 64
    require_alike(found, theirs(model.visual, transform, odd_photos))


def test_a_folder_beside_a_name_of_open_clips_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RN50").mkdir()
    with pytest.raises(ModelError, match="'' is neither a file nor weights of RN50"):
        open_teacher("open_clip:RN50")
    (tmp_path / "RN50" / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        open_teacher("open_clip:RN50")


def test_open_clip_names_what_it_knows(tmp_path: Path) -> None:
    open_clip_folder(tmp_path, resize_mode="longest")
    with pytest.raises(ModelError, match="resize_mode 'longest' has no counterpart"):
        open_teacher(f"open_clip:{tmp_path}")
    with pytest.raises(ModelError, match="Did you mean ViT-B-32"):
        open_teacher("open_clip:ViT-B-3/openai")
    with pytest.raises(ModelError, match="neither a file nor weights of ViT-B-32, which are openai"):
        open_teacher("open_clip:ViT-B-32/opena")


def test_sentence_transformers_embeds_as_it_does(odd_photos: list[Path], tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    from .test_hugging_face import clip

    clip(tmp_path / "clip")
    transformers = pytest.importorskip("transformers")
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    images = transformers.AutoImageProcessor.from_pretrained(tmp_path / "clip")
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(tmp_path / "clip")
    modules = library.sentence_transformer.modules
    first = modules.Transformer(str(tmp_path / "clip"))
    model = library.SentenceTransformer(modules=[first, modules.Normalize()], device="cpu")
    model.save(str(tmp_path / "model"))
    expected = model.encode([Image.open(file).convert("RGB") for file in odd_photos])
    teacher = open_teacher(f"st:{tmp_path / 'model'}")
    require_alike(ours(teacher, odd_photos), expected)
    with pytest.raises(OptionError, match="gives its sentence_embedding alone"):
        open_teacher(f"st:{tmp_path / 'model'}#cls")
    with pytest.raises(ModelError, match="hf download"):
        open_teacher("st:nobody/nothing")


def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("transformers", "open_clip", "sentence_transformers"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for family, extra in (("hf", "hf"), ("open_clip", "open-clip"), ("st", "sentence-transformers")):
        with pytest.raises(MissingExtraError, match=rf"pip install 'embedding-compressor\[{extra}\]'"):
            open_teacher(f"{family}:{tmp_path}")


def test_unknown_names_are_refused_with_those_near() -> None:
    with pytest.raises(ModelError, match="Did you mean resnet50"):
        open_teacher("timm:resnet5")
    with pytest.raises(OptionError, match="Unknown kind of teacher 'tim'"):
        open_teacher("tim:resnet50")
    with pytest.raises(ModelError, match="timm:NAME, hf-hub:NAME, hf:NAME"):
        open_teacher("nowhere")
