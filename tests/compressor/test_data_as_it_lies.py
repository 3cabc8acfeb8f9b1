"""Every verb takes the user's own data: Python objects, and tables with other column names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compressor import pipeline, run
from compressor.cli.command import main
from export import Report, build_index, embed_data, validate
from zoo import create_model, save_model
from zoo.data import from_images
from zoo.errors import OptionError
from zoo.files import write_text
from zoo.training.train import train

SMALL: dict[str, Any] = {"arch": "test_resnet", "dim": 8, "image_size": 32, "epochs": 1, "batch_size": 16, "workers": 0}


def labelled(photos: Path) -> tuple[list[bytes], list[str]]:
    files = sorted(photos.rglob("*.png"))
    return [file.read_bytes() for file in files], [file.parent.name for file in files]


def test_a_run_on_images_in_memory_is_reused_until_they_change(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blobs, labels = labelled(photos)
    given: dict[str, Any] = {}

    def report(models: Any, teacher: Any, splits: Any, folder: Path, options: dict[str, Any]) -> Report:
        given.update(options, splits=splits)
        return Report(folder, {}, True)

    monkeypatch.setattr(pipeline, "_export", lambda *arguments: ([], None))
    monkeypatch.setattr(pipeline, "_report", report)

    def again(images: list[bytes]) -> None:
        data = from_images(images, labels, continuous=np.arange(len(labels)), name="shop")
        run(data, tmp_path, teacher=SMALL, student=SMALL)

    caplog.set_level("INFO")
    again(blobs)
    assert len(given["splits"].test) == 48 and given["splits"].test.continuous is not None
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["data"] == "shop"
    for folder in ("teacher", "student"):
        facts = json.loads((tmp_path / folder / "config.json").read_text())["embedding_compressor"]
        assert facts["data"]["name"] == facts["options"]["data"] == "shop"
    caplog.clear()
    again(blobs)
    assert caplog.text.count("is already finished: reused") == 2
    with pytest.raises(OptionError, match="was started with data_digest"):
        again([blobs[1], blobs[0], *blobs[2:]])


def test_other_verbs_take_objects(photos: Path, tmp_path: Path, tiny_onnx: Callable[..., Path]) -> None:
    blobs, labels = labelled(photos)
    file = tiny_onnx(tmp_path / "tiny.onnx")
    with np.load(embed_data(file, sorted(photos.rglob("*.png")), tmp_path / "a.npz")) as arrays:
        assert list(arrays["ids"])[:2] == ["class00/0.png", "class00/1.png"] and len(arrays["embeddings"]) == 96
    index = build_index(file, blobs, tmp_path / "index")
    assert json.loads((index / "ids.json").read_text())[:2] == ["0", "1"]
    assert json.loads((index / "index.json").read_text())["gallery"] == "list"
    save_model(create_model("test_resnet", 8, image_size=32), tmp_path / "model")
    options = {"bootstrap": 10, "latency_runs": 0, "baselines": False}
    report = validate([file], tmp_path / "model", (blobs, labels), tmp_path / "report", **options)
    assert report.content["data"]["name"] == "images"


def test_columns_in_the_shell_and_in_yaml(
    photos: Path, tmp_path: Path, tiny_onnx: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{file}\t{file.parent.name}\t{'a' if row < 48 else 'b'}" for row, file in enumerate(photos.rglob("*.png"))]
    table = tmp_path / "table.tsv"
    write_text(table, "\n".join(["where is it\tsku\tfold", *rows]))
    file = str(tiny_onnx(tmp_path / "tiny.onnx"))
    assert main(["embed", file, str(table), str(tmp_path / "a.npz"), "--columns.path", "where is it"]) == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert len(arrays["ids"]) == 96
    write_text(tmp_path / "config.yaml", "columns:\n  path: where is it\n  label: sku\n")
    words = [str(table), str(tmp_path / "model"), "--config", str(tmp_path / "config.yaml")]
    capsys.readouterr()
    assert main(["train", *words, "--columns.split=fold", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["columns"] == {"path": "where is it", "label": "sku", "split": "fold"}
    assert main(["train", *words, "--columns.lable=sku"]) == 1
    assert "columns names 'lable'; known are path, label" in capsys.readouterr().err
    assert main(["train", str(table), str(tmp_path / "model")]) == 1
    assert "Name the column of the images: columns.path." in capsys.readouterr().err


def test_columns_are_part_of_what_a_folder_was_made_with(photos: Path, tmp_path: Path) -> None:
    rows = [f"{file},{file.parent.name},{file.parent.name[::-1]}" for file in photos.rglob("*.png")]
    write_text(tmp_path / "t.csv", "\n".join(["path,label,other", *rows]))
    train(str(tmp_path / "t.csv"), tmp_path / "model", **SMALL)
    with pytest.raises(OptionError, match=r"was started with columns None .now"):
        train(str(tmp_path / "t.csv"), tmp_path / "model", **SMALL, columns={"label": "other"})
