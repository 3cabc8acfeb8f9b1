"""Omniglot and CIFAR-100, from small copies of their layouts, without downloads."""

from __future__ import annotations

import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.torchvision_sets import read_cifar100, read_omniglot
from zoo.errors import DataError

DRAWINGS = {
    "images_background": ["Greek/character01/1_01.png", "Greek/character02/2_01.png", "Latin/character01/3_01.png"],
    "images_evaluation": ["Tengwar/character01/4_01.png"],
}


def write_omniglot(root: Path) -> None:
    value = 0
    for part, names in DRAWINGS.items():
        for name in names:
            file = root / "omniglot-py" / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((3, 3), value, dtype=np.uint8)).save(file)
            value += 1


def check_omniglot(path: Path) -> None:
    data = load_data(f"omniglot:{path}", validation=0)
    assert list(data.train.ids) == [f"images_background/{name}" for name in DRAWINGS["images_background"]]
    assert list(data.test.ids) == ["images_evaluation/Tengwar/character01/4_01.png"]
    names = ["Greek/character01", "Greek/character02", "Latin/character01", "Tengwar/character01"]
    assert list(data.train.class_names) == names
    assert data.train.labels is not None and data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels is not None and data.test.labels.tolist() == [3]
    assert [int(data.train.pixels(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert data.test.pixels(0)[0, 0, 0] == 3


def test_omniglot_from_folders_and_from_the_archives(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    check_omniglot(tmp_path)
    home = tmp_path / "omniglot-py"
    for part, names in DRAWINGS.items():
        with zipfile.ZipFile(home / f"{part}.zip", "w") as archive:
            for name in names:
                archive.write(home / part / name, f"{part}/{name}")
        (home / part / names[0]).unlink()  # an extraction that was cut short
    check_omniglot(tmp_path)


def test_a_folder_that_is_not_omniglot_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "omniglot-py/images_background").mkdir(parents=True)
    with pytest.raises(DataError, match="images_background is not Omniglot"):
        read_omniglot(str(tmp_path))


def no_network(*args: object, **kwargs: object) -> None:
    raise urllib.error.URLError("no route to host")


def test_without_network_the_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.omniglot.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"no route to host.*Put images_background\.zip.* into .*omniglot-py"):
        read_omniglot(str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"no route to host.*Put cifar-100-binary\.tar\.gz into "):
        read_cifar100(str(tmp_path))


def write_cifar100(root: Path) -> np.ndarray:
    """Three images for training and two for testing, of classes 0, 49, 50 and 99, 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    records = b"".join(
        bytes([7, fine]) + image.transpose(2, 0, 1).tobytes()
        for fine, image in zip((0, 49, 50, 99, 0), pixels, strict=True)
    )
    (folder / "train.bin").write_bytes(records[: 3 * 3074])
    (folder / "test.bin").write_bytes(records[3 * 3074 :])
    (folder / "fine_label_names.txt").write_text("".join(f"thing_{i}\n" for i in range(100)) + "\n")
    return pixels


def test_cifar100_pools_both_parts_and_divides_the_classes(tmp_path: Path) -> None:
    pixels = write_cifar100(tmp_path)
    data = load_data(f"cifar100:{tmp_path}", validation=0)
    assert list(data.train.ids) == ["train/00000", "train/00001", "test/00001"]
    assert list(data.test.ids) == ["train/00002", "test/00000"]
    assert data.train.labels is not None and data.train.labels.tolist() == [0, 49, 0]
    assert data.test.labels is not None and data.test.labels.tolist() == [50, 99]
    assert data.test.class_names[99] == "thing_99"
    assert (data.train.pixels(1) == pixels[1]).all() and (data.test.pixels(1) == pixels[3]).all()
    assert "pooled" in data.protocol["note"]


def test_broken_cifar100_files_are_errors_that_name_them(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    folder = tmp_path / "cifar-100-binary"
    (folder / "fine_label_names.txt").write_text("apple\n")
    with pytest.raises(DataError, match=r"fine_label_names\.txt names 1 classes, not 100"):
        read_cifar100(str(tmp_path))
    (folder / "test.bin").write_bytes((folder / "test.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test\.bin has 6147 bytes"):
        read_cifar100(str(tmp_path))
    (folder / "train.bin").unlink()
    with pytest.raises(DataError, match=r"train\.bin cannot be read"):
        read_cifar100(str(tmp_path))
