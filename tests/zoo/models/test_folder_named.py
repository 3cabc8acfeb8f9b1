"""A timm name and a folder of the same name: which of the two is used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from zoo.models.folder import folder_named, save_model
from zoo.models.making import create_model
from zoo.teachers.address import parse_address
from zoo.teachers.families import timm_hub
from zoo.training.defaults import filled

NAME = "test_resnet"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun_with(arch: str, **options: Any) -> Any:
    return filled("train", {"arch": arch, "pretrained": False, "dim": 8, "augment": "none", **options})


@pytest.mark.parametrize("name", [NAME, f"{NAME}.r160_in1k"])
def test_a_folder_without_a_configuration_is_not_meant(name: str, here: Path, caplog: Any) -> None:
    assert begun_with(name)["arch"] == name  # nothing is there
    (here / name).mkdir()
    with caplog.at_level(logging.INFO):
        assert begun_with(name)["arch"] == name
    assert f"{name} is timm's network; the folder of that name is not meant. Write ./{name}" in caplog.text
    assert folder_named(f"./{name}") == Path(name)  # asked for as a path
    assert folder_named(str(here / name)) == here / name


def test_a_model_folder_of_that_name_is_meant(here: Path, caplog: Any) -> None:
    save_model(create_model("test_vit", 8, image_size=32), here / NAME)
    found = begun_with(NAME)
    assert (found["arch"], found["pretrained"]) == ("test_vit", f"{NAME}/model.safetensors")
    assert f"{NAME} is the model folder of that name here, and not timm's network" in caplog.text
    assert begun_with(NAME, out=NAME)["arch"] == NAME  # its own folder of an earlier run is not begun with


def test_teachers_are_named_alike(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = here / "downloaded"
    monkeypatch.setattr(timm_hub, "published_folder", lambda *given: published)
    save_model(create_model(NAME, 8, image_size=32), published)
    (here / NAME).mkdir()
    network, _ = timm_hub.open_timm(parse_address(f"timm:{NAME}"))
    assert network.pretrained_cfg["architecture"] == NAME  # type: ignore[index]
    save_model(create_model("test_vit", 8, image_size=32), here / NAME)
    network, _ = timm_hub.open_timm(parse_address(f"timm:{NAME}"))
    assert network.pretrained_cfg["architecture"] == "test_vit"  # type: ignore[index]
