"""Data sets of torch and torchvision."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tests.zoo.data.sources.conftest import NAMES, Pile
from zoo.data import load_data
from zoo.data.stored import mark_of
from zoo.errors import DataError


class Pictures(Dataset[Any]):
    """Images and labels in memory, as CIFAR10 has them."""

    def __init__(self, pile: Pile, as_items: str = "pairs") -> None:
        self.images = [np.array(Image.open(path)) for path in pile.paths]
        self.targets = [row // 4 for row in range(24)]
        self.classes = list(NAMES)
        self.as_items = as_items
        self.asked = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        image, label = Image.fromarray(self.images[index]), self.targets[index]
        return {"pairs": (image, label), "dictionaries": {"image": image, "label": label}, "images": image}[
            self.as_items
        ]


def test_an_image_folder_is_read_from_its_files(pile: Pile) -> None:
    folder = ImageFolder(str(pile.root / "photos"))
    splits = load_data(folder, validation=0)
    assert pile.is_divided(splits) and splits.name == f"ImageFolder:{pile.root / 'photos'}"
    assert splits.train.ids[0] == "ant/00.png" and isinstance(splits.train.sources[0], Path)
    assert splits.digest == load_data(f"folder:{pile.root / 'photos'}", validation=0).digest


@pytest.mark.parametrize("items", ["pairs", "dictionaries"])
def test_any_other_is_gone_through_once(items: str, pile: Pile) -> None:
    pictures = Pictures(pile, items)
    splits = load_data(pictures, validation=0)
    assert pictures.asked == 24 + 8  # the first eight twice
    assert pile.is_divided(splits) and splits.name == "Pictures"
    assert pile.is_in(pickle.loads(pickle.dumps(splits.test)), range(12, 24))
    before = splits.digest
    pictures.images[5][:] = 1
    assert load_data(pictures, validation=0).digest != before


def test_without_labels(pile: Pile) -> None:
    assert load_data(Pictures(pile, "images")).train.labels is None


def test_subsets_and_concatenations(pile: Pile) -> None:
    folder = ImageFolder(str(pile.root / "photos"))
    subset = Subset(Subset(folder, range(4, 24)), range(8))
    images = load_data(subset, split="all-train", validation=0).train
    assert pile.is_in(images, range(4, 12)) and isinstance(images.sources[0], Path)
    both = ConcatDataset([Subset(folder, range(10)), Subset(Pictures(pile), range(10, 24))])
    images = load_data(both, split="all-train", validation=0).train
    assert pile.is_in(images) and tuple(images.class_names) == NAMES
    assert images.ids[0] == "0/ant/00.png" and images.ids[-1] == "1/23"


def test_subclasses_that_return_something_else_are_read_as_they_are(pile: Pile) -> None:
    class Inverted(ConcatDataset[Any]):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return ImageOps.invert(image), label

    images = load_data(Inverted([ImageFolder(str(pile.root / "photos"))]), split="all-train", validation=0).train
    assert [int(images.pixels(row)[0, 0, 0]) for row in (0, 7)] == [255, 185]


def test_packages_of_users_may_be_called_datasets(pile: Pile) -> None:
    mine = type("Mine", (Pictures,), {"__module__": "datasets.mine"})(pile)
    assert pile.is_divided(load_data(mine, validation=0))


def test_a_subset_keeps_its_order_across_parts(pile: Pile, tmp_path: Path) -> None:
    folder = ImageFolder(str(pile.root / "photos"))
    both = ConcatDataset([Subset(folder, range(10)), Subset(Pictures(pile), range(10, 24))])
    order = [23, 1, 12, 0, 9, 10]
    np.save(tmp_path / "labels.npy", np.array(order, float))
    labels = {"continuous_labels": tmp_path / "labels.npy"}
    images = load_data(Subset(both, order), split="all-train", validation=0, **labels).train  # type: ignore[arg-type]
    shades = [int(images.pixels(row)[0, 0, 0]) for row in range(6)]
    assert shades == [10 * row for row in order] and images.continuous is not None
    assert images.ids[:2] == ["1/23", "0/ant/01.png"]
    distances = images.continuous.distances(np.array([0]), np.arange(6))[0]
    assert distances.tolist() == [23 - row for row in order]


def test_concatenations_name_classes_alike(pile: Pile) -> None:
    late = Pictures(pile)
    late.classes = list(NAMES[::-1])
    late.targets = [5 - target for target in late.targets]
    images = load_data(ConcatDataset([Pictures(pile), late]), split="all-train", validation=0).train
    assert images.labels is not None and images.labels[:24].tolist() == images.labels[24:].tolist()


def test_labels_as_text_are_names_of_classes(pile: Pile) -> None:
    pictures: Any = Pictures(pile)
    pictures.classes = ["1", "2", "3", "4", "5", "6"]
    pictures.targets = [str(row // 4 + 1) for row in range(24)]
    images = load_data(pictures, split="all-train", validation=0).train
    assert images.labels is not None and images.labels.tolist() == [row // 4 for row in range(24)]


def test_parts_of_any_kind(pile: Pile) -> None:
    folder = ImageFolder(str(pile.root / "photos"))
    parts = {"train": Subset(folder, range(12)), "test": (pile.paths[12:], pile.labels[12:])}
    assert pile.is_divided(load_data(parts, validation=0))
    with pytest.raises(DataError, match="has a part called 'extra', which is not one of train"):
        load_data({"train": folder, "extra": folder})
    with pytest.raises(DataError, match="part test has no labels, and train has"):
        load_data({"train": folder, "test": pile.paths})


NORMALISED = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (NORMALISED, r"photos item 0 is float32 of shape \(6, 8, 3\) from -1 to -1, not uint8 pixels"),
        (transforms.ToTensor(), "leave out ToTensor, Normalize"),
        (transforms.RandomAffine(90, fill=7), "another image each time, as random transforms make it"),
    ],
)
def test_transforms_that_do_a_models_work_are_refused(transform: Any, said: str, pile: Pile) -> None:
    for row, path in enumerate(pile.paths):  # not of one shade, so that turning shows
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[:, : 1 + row % 7] = 0 if transform is NORMALISED else 200
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError, match=said):
        load_data(ImageFolder(str(pile.root / "photos"), transform=transform))


@pytest.mark.parametrize("transform", [transforms.Resize((6, 8)), transforms.PILToTensor()])
def test_transforms_that_leave_images_are_kept(transform: Any, pile: Pile) -> None:
    assert pile.is_divided(load_data(ImageFolder(str(pile.root / "photos"), transform=transform), validation=0))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from ()


def test_streams_and_loaders_are_refused(pile: Pile) -> None:
    with pytest.raises(DataError, match=r"Stream only iterates, .* Give a map-style Dataset .* webdataset shards"):
        load_data(Stream())
    with pytest.raises(DataError, match=r"A DataLoader gives batches, .* loader.dataset"):
        load_data(DataLoader(Pictures(pile)))


def test_broken_items(pile: Pile) -> None:
    pictures = Pictures(pile)
    Path(pile.paths[3]).write_bytes(b"broken")
    folder = ImageFolder(str(pile.root / "photos"), transform=transforms.Resize(4))
    images = load_data(folder, split="all-train", validation=0).train
    assert mark_of(images.sources[3]) == -1 and len(images.checked()) == 23
    pictures.targets = pictures.targets[:20]
    with pytest.raises(DataError, match=r"Pictures item 20 cannot be read \(list index out of range\)"):
        load_data(pictures)
