"""Models of transformers embed as in their own library, from a folder and without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.errors import ModelError, OptionError
from zoo.teachers.families.tower import Tower
from zoo.teachers.opening import open_teacher
from zoo.teachers.torch_module import TorchTeacher

from .conftest import cosines, ours, require_alike

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 16}


def dinov2(folder: Path) -> Any:
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14, layerscale_value=1.0)
    )
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 65}, crop_size={"height": 56, "width": 56}, image_mean=[0.485, 0.456, 0.406]
    )
    return saved(folder, model, processor)


def clip(folder: Path) -> Any:
    vision = SMALL | {"image_size": 48, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    return saved(folder, transformers.CLIPModel(config), processor)


def siglip(folder: Path) -> Any:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=SMALL | {"image_size": 48, "patch_size": 16})
    processor = transformers.SiglipImageProcessor(size={"height": 48, "width": 48})
    return saved(folder, transformers.SiglipModel(config), processor)


def vit(folder: Path) -> Any:
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=48, patch_size=16))
    return saved(folder, model, transformers.ViTImageProcessor(size={"height": 48, "width": 48}))


def convnext(folder: Path) -> Any:
    config = transformers.ConvNextConfig(
        num_stages=2, depths=[1, 1], hidden_sizes=[16, 24], image_size=64, layer_scale_init_value=1.0
    )
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.9)
    return saved(folder, transformers.ConvNextModel(config), processor)


def swin(folder: Path) -> Any:
    config = transformers.SwinConfig(image_size=56, embed_dim=12, depths=[1, 1], num_heads=[2, 2])
    processor = transformers.ViTImageProcessor(size={"height": 56, "width": 56}, resample=3)
    return saved(folder, transformers.SwinModel(config), processor)


FAMILIES = [dinov2, clip, siglip, vit, convnext, swin]


def saved(folder: Path, model: Any, processor: Any) -> Any:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


@torch.no_grad()
def theirs(model: Any, folder: Path, files: list[Path], of: Callable[[Any], Any] | None = None) -> np.ndarray:
    """Embed as the library's own pages show: its processor, its model, the vector of its convention."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rows = []
    for file in files:
        given = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")
        if of is None and hasattr(model, "get_image_features"):
            found = model.get_image_features(**given)
            rows.append(found if isinstance(found, torch.Tensor) else found.pooler_output)
        else:
            rows.append((of or (lambda output: output.pooler_output))(model(**given)))
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_a_folder_embeds_as_transformers_does(
    make: Callable[[Path], Any], odd_photos: list[Path], tmp_path: Path
) -> None:
    model = make(tmp_path)
    teacher = open_teacher(f"hf:{tmp_path}")
    require_alike(ours(teacher, odd_photos), theirs(model, tmp_path, odd_photos))
    assert isinstance(teacher, TorchTeacher)
    assert not any("Assumed" in note for note in teacher.notes)
    assert teacher.name == f"hf:{tmp_path.name}"


def test_imagenets_preprocessing_would_show(odd_photos: list[Path], tmp_path: Path) -> None:
    model = siglip(tmp_path)
    tower = open_teacher(f"hf:{tmp_path}").module  # type: ignore[attr-defined]
    wrapped = TorchTeacher(torch.nn.Sequential(torch.nn.Identity(), tower.network.vision_model))
    assert "Assumed" in wrapped.notes[0]
    expected = theirs(model, tmp_path, odd_photos)
    found = ours(open_teacher(f"hf:{tmp_path}#size=48,resize=center,crop_pct=0.875"), odd_photos)
    middle = expected.mean(axis=0)
    assert cosines(found - middle, expected - middle).min() < 0.9


@pytest.mark.parametrize(
    ("output", "of"),
    [
        ("#pooler_output", lambda output: output.pooler_output),
        ("#cls", lambda output: output.last_hidden_state[:, 0]),
        ("#mean", lambda output: output.last_hidden_state.mean(dim=1)),
        ("#last_hidden_state:mean", lambda output: output.last_hidden_state.mean(dim=1)),
    ],
)
def test_the_vector_can_be_chosen(
    output: str, of: Callable[[Any], Any], odd_photos: list[Path], tmp_path: Path
) -> None:
    model = clip(tmp_path)
    found = ours(open_teacher(f"hf:{tmp_path}{output}"), odd_photos)
    require_alike(found, theirs(model.vision_model, tmp_path, odd_photos, of))


def test_another_vector_is_another_teacher(tmp_path: Path) -> None:
    vit(tmp_path)
    assert len({open_teacher(f"hf:{tmp_path}#{output}").digest for output in ("pooler_output", "cls", "mean")}) == 3


def test_text_is_left_out(tmp_path: Path) -> None:
    model = clip(tmp_path)
    vision = sum(p.numel() for part in (model.vision_model, model.visual_projection) for p in part.parameters())
    parameters = open_teacher(f"hf:{tmp_path}").parameters()
    assert parameters is not None
    assert parameters - vision in (0, 1)  # the temperature


def test_a_classifier_is_left_out_and_its_class_token_taken(odd_photos: list[Path], tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SMALL, image_size=48, patch_size=16, num_labels=7)
    model = saved(
        tmp_path,
        transformers.ViTForImageClassification(config),
        transformers.ViTImageProcessor(size={"height": 48, "width": 48}),
    )
    teacher = open_teacher(f"hf:{tmp_path}")
    assert any("classifier" in note for note in teacher.notes)
    assert any("pooler has no weights" in note for note in teacher.notes)
    expected = theirs(model.vit, tmp_path, odd_photos, lambda output: output.last_hidden_state[:, 0])
    require_alike(ours(teacher, odd_photos), expected)
    with pytest.raises(OptionError, match="has no pooler_output; it has #cls, #mean"):
        open_teacher(f"hf:{tmp_path}#pooler_output")


def test_a_projection_alone_is_loaded_with_its_weights(odd_photos: list[Path], tmp_path: Path) -> None:
    config = transformers.CLIPVisionConfig(**SMALL, image_size=48, patch_size=16, projection_dim=20)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    model = saved(tmp_path, transformers.CLIPVisionModelWithProjection(config), processor)
    expected = theirs(model, tmp_path, odd_photos, lambda output: output.image_embeds)
    require_alike(ours(open_teacher(f"hf:{tmp_path}"), odd_photos), expected)


def test_a_plain_folder_is_known_as_one_of_transformers(tmp_path: Path) -> None:
    swin(tmp_path)
    assert open_teacher(tmp_path).digest == open_teacher(f"hf:{tmp_path}").digest


def test_pickles_are_refused_with_the_remedy(tmp_path: Path) -> None:
    model = vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, are a pickle.*save_pretrained writes safetensors"):
        open_teacher(f"hf:{tmp_path}")


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    vit(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["embeddings.cls_token"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights, such as embeddings\.cls_token"):
        open_teacher(f"hf:{tmp_path}")


def test_preprocessing_without_counterpart_is_refused_unless_given(tmp_path: Path) -> None:
    model = vit(tmp_path)
    saved(tmp_path, model, transformers.ViTImageProcessor(size={"height": 48, "width": 48}, resample=0))
    with pytest.raises(ModelError, match="resample is 0; bilinear"):
        open_teacher(f"hf:{tmp_path}")
    given = open_teacher(f"hf:{tmp_path}#size=48,resize=squash,mean=0.5,std=0.5,batch_size=3,metric=euclidean")
    assert isinstance(given, TorchTeacher)
    assert (given.preprocessing.crop_mode, given.preprocessing.mean) == ("squash", (0.5, 0.5, 0.5))
    assert (given.batch_size, given.metric) == (3, "euclidean")


def test_a_processor_that_does_more_than_it_says_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vit(tmp_path)
    kind = transformers.ViTImageProcessor
    plain = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, images, **options: plain(self, images.rotate(180), **options))
    with pytest.raises(ModelError, match=r"cannot be translated; .* grey levels away"):
        open_teacher(f"hf:{tmp_path}")


def test_names_fail_at_once_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.teachers.families.published.obstacle_to", lambda url: "no answer within 8 s")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"hf download nobody/nothing --local-dir FOLDER"):
        open_teacher("hf:nobody/nothing")


def test_loading_shows_no_bar_and_leaves_those_of_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    swin(tmp_path)
    capfd.readouterr()
    open_teacher(f"hf:{tmp_path}")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_gradients_and_modes_are_off(tmp_path: Path) -> None:
    swin(tmp_path)
    tower = open_teacher(f"hf:{tmp_path}").module  # type: ignore[attr-defined]
    assert isinstance(tower, Tower)
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
