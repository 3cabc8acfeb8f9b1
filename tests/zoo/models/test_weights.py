"""Weights fit their network completely, or are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import ModelError
from zoo.files import digest
from zoo.formats.model_config import DIGESTS_KEY, FACTS_KEY
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m"
    save_model(create_model("test_resnet", 8, image_size=32), path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "m"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object], keep_digests: bool = False) -> Path:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    if not keep_digests:
        config.pop(DIGESTS_KEY, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def foreign(config: dict[str, Any]) -> None:
    del config[FACTS_KEY]


@pytest.mark.parametrize("classes", [5, 0])
@pytest.mark.parametrize("ours", [True, False])
def test_another_number_of_classes_is_refused(classes: int, ours: bool, copy: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["num_classes"] = config["model_args"]["num_classes"] = classes
        if not ours:
            foreign(config)

    change(copy, edit)
    with pytest.raises(ModelError, match=r"model\.safetensors .*fc\.(weight|bias)"):
        load_model(copy)


def test_num_classes_that_timm_would_drop_the_head_for(copy: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["model_args"]["num_classes"] = config["num_classes"]  # as timm 1.0.31 saves it; save_model does not
        config["num_classes"] = 5
        foreign(config)

    change(copy, edit)
    with pytest.raises(ModelError, match="does not fill fc"):
        load_model(copy)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("kind", ["missing", "extra", "smaller"])
def test_tensors_that_do_not_belong_are_refused(kind: str, ours: bool, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    if kind == "missing":
        del weights["layer1.0.conv1.weight"]
    elif kind == "extra":
        weights["layer9.conv.weight"] = torch.rand(3)
    else:
        weights["fc.weight"] = weights["fc.weight"][:, :-1].contiguous()
    save_file(weights, copy / "model.safetensors")
    change(copy, (lambda config: None) if ours else foreign)
    with pytest.raises(ModelError, match=r"model\.safetensors .*(layer1\.0\.conv1|layer9\.conv|fc)\.weight"):
        load_model(copy)


def test_a_folder_of_timm_alone_loads(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=7).eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    images = torch.rand(2, 3, *model.pretrained_cfg["input_size"][1:])
    torch.testing.assert_close(load_model(tmp_path)(images), model(images), rtol=0, atol=0)


def test_a_flipped_bit_in_weights_is_told_with_both_digests(copy: Path) -> None:
    weights = copy / "model.safetensors"
    said = digest(weights)
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 4
    weights.write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"safetensors has changed since it was written.*{digest(weights)[:16]}.*{said[:16]}"
    ):
        load_model(copy)
    load_model(change(copy, lambda config: None))  # of an earlier version, without digests


def test_a_changed_configuration_is_told(copy: Path) -> None:
    change(copy, lambda config: config["pretrained_cfg"].update(crop_pct=0.9), keep_digests=True)
    with pytest.raises(ModelError, match=r"config\.json has changed since it was written: its digest is"):
        load_model(copy)


HUGE = [
    ("num_classes", 10**18, "num_classes"),
    ("num_classes", 60000, "they do not belong together"),
    ("layers", [30000, 1, 1, 1], "they do not belong together"),
    ("layers", [10**9, 1, 1, 1], "must be at most 65536"),
    ("stem_width", 60000, "they do not belong together"),
    ("global_pool", {}, "config.json"),
    ("in_chans", "3", "config.json"),
]


@pytest.mark.parametrize(("key", "value", "message"), HUGE)
def test_networks_far_beyond_their_weights_are_not_made(key: str, value: object, message: str, copy: Path) -> None:
    change(copy, lambda config: config["model_args"].update({key: value}))
    with pytest.raises(ModelError, match=message):
        load_model(copy)


WRONG: list[tuple[str, object]] = [
    ("architecture", 5),
    ("architecture", "no_such_net"),
    ("model_args", []),
    ("pretrained_cfg", None),
    ("pretrained_cfg", {"input_size": "3"}),
    ("pretrained_cfg", {"input_size": [3, 10**18, 10**18]}),
    ("pretrained_cfg", {"crop_pct": 1e-4}),
    ("pretrained_cfg", {"mean": [0.5]}),
    ("pretrained_cfg", {"std": [0, 0, 0]}),
    ("pretrained_cfg", {"std": [float("nan")] * 3}),
    (FACTS_KEY, []),
    (FACTS_KEY, {"metric": 5}),
    (FACTS_KEY, {"metric": "manhattan"}),
    (FACTS_KEY, {"options": []}),
    (FACTS_KEY, {"measured": 3}),
    (DIGESTS_KEY, {"weights": 3}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_values_of_the_wrong_kind_are_named(key: str, value: object, copy: Path) -> None:
    change(copy, lambda config: config.update({key: value}), keep_digests=True)
    with pytest.raises(ModelError, match=r"config\.json is not a timm model configuration") as raised:
        load_model(copy)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 100_000, "[" * 100_000, "5", "null", '"a"', "[]", "\xff"])
def test_what_is_no_object_is_named(text: str, copy: Path) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json is not a timm model configuration"):
        load_model(copy)
