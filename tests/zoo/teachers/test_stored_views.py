"""Stored embeddings of numbered views: computed once, and never those of another teacher or damaged ones."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo.teachers.stored_views
from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.teachers.stored_views import StoredViews
from zoo.teachers.torch_module import TorchTeacher

IMAGES = ImageSet(["a", "b", "c"], [Path("a"), Path("b"), Path("c")])


class Counting(nn.Module):
    """Averages each channel, times a weight; remembers how many views it saw."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.seen = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return self.weight * pixels.mean(dim=(2, 3))


def store(folder: Path, module: Counting, views: int = 4, **made_by: object) -> StoredViews:
    teacher = TorchTeacher(module)
    module.seen = 0
    return StoredViews(folder, teacher, IMAGES, views, 3, made_by)


def view(number: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))


def shown(stored: StoredViews, *which: tuple[int, int]) -> Tensor:
    """Show the stored teacher some (image, number)."""
    rows, numbers = (torch.tensor(side) for side in zip(*which, strict=True))
    return stored.embed(torch.cat([view(10 * row + number) for row, number in which]), rows, numbers)


def test_each_view_is_embedded_once_by_whoever_comes_first(tmp_path: Path) -> None:
    module = Counting()
    stored = store(tmp_path, module)
    first = shown(stored, (0, 1), (2, 3))
    plain = TorchTeacher(Counting()).embed_views(torch.cat([view(1), view(23)]), torch.tensor([0, 2]), IMAGES)
    torch.testing.assert_close(first, plain)
    assert module.seen == 2
    again = shown(store(tmp_path, module), (2, 3), (1, 0), (0, 1))
    assert module.seen == 1
    assert torch.equal(again[[2, 0]], first)


@pytest.mark.parametrize("change", ["weights", "count", "augmentation", "images"])
def test_nothing_is_found_of_another_kind(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown(store(tmp_path, Counting(), augment="photo"), (0, 0))
    module = Counting(2.0 if change == "weights" else 1.0)
    if change == "images":
        monkeypatch.setattr(f"{__name__}.IMAGES", ImageSet(["a", "b", "d"], IMAGES.sources))
    shown(store(tmp_path, module, 5 if change == "count" else 4, augment="photo" * (change != "augmentation")), (0, 0))
    assert module.seen == 1


def test_a_damaged_row_is_embedded_again(tmp_path: Path) -> None:
    module = Counting()
    expected = shown(store(tmp_path, module), (0, 0), (1, 1))
    (file,) = (file for file in tmp_path.glob("views-*.npy") if ".crc." not in file.name)
    content = bytearray(file.read_bytes())
    content[-3 * 4 * 3 * 4 + 2] ^= 1  # a bit of image 0, view 0
    file.write_bytes(content)
    assert torch.equal(shown(store(tmp_path, module), (0, 0), (1, 1)), expected)
    assert module.seen == 1
    file.write_bytes(content[:-1])
    assert torch.equal(shown(store(tmp_path, module), (0, 0), (1, 1)), expected)
    assert module.seen == 2


def test_a_disk_without_room_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zoo.teachers.stored_views, "reserve", full)
    with pytest.raises(OptionError, match=r"no room for .* teacher's embeddings .*No space left"):
        store(tmp_path, Counting())
    assert list(tmp_path.iterdir()) == []


def test_rows_of_zeros_are_not_taken_for_embeddings(tmp_path: Path) -> None:
    module = Counting(0.0)
    stored = store(tmp_path, module)
    assert np.all(shown(stored, (0, 0)).numpy() == 0)
    shown(stored, (0, 0))
    assert module.seen == 1  # but a teacher may give zeros
