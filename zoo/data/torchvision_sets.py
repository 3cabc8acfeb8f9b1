"""Data sets that torchvision can download: ``omniglot:PATH`` and ``cifar100:PATH``.

Files that are already there are used, without network access.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.folder import found_in
from zoo.data.image_set import ImageSet
from zoo.data.stored import ImageSource
from zoo.errors import DataError

_CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
_CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
_CIFAR100_RECORD = 2 + 3 * 32 * 32  # bytes: coarse label, fine label, pixels


def read_omniglot(path: str) -> Source:
    """Read Omniglot (Lake et al., Science 2015): 1,623 characters of 50 alphabets, 20 drawings each.

    The 964 characters of the authors' background set are for training, the 659 of the evaluation set for test. A class
    is ``alphabet/character``. Read from ``omniglot-py`` below ``path``; downloaded there if missing.

    Raises:
        DataError: the data is missing and cannot be downloaded, or is broken.
    """
    ids: list[str] = []
    sources: list[ImageSource] = []
    classes: list[str] = []
    split: list[str] = []
    for name, part in (("images_background", TRAIN), ("images_evaluation", TEST)):
        # The archive first: its checksum is known, while an interrupted extraction leaves an incomplete folder.
        archive, folder = (Path(path) / "omniglot-py" / end for end in (f"{name}.zip", name))
        if not archive.exists() and not folder.is_dir():
            _fetch_omniglot(path, name)
        drawings = [(name.split("/"), source) for name, source in found_in(archive if archive.exists() else folder)]
        if not drawings or any(len(parts) < 3 for parts, _ in drawings):
            raise DataError(f"{folder} is not Omniglot: no drawings in alphabet/character folders. Remove it.")
        for parts, source in drawings:
            alphabet, character, drawing = parts[-3:]
            ids.append(f"{name}/{alphabet}/{character}/{drawing}")
            sources.append(source)
            classes.append(f"{alphabet}/{character}")
            split.append(part)
    class_names = sorted(set(classes))
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[name] for name in classes], dtype=np.int64)
    note = "train: background alphabets; test: evaluation alphabets"
    return Source(ImageSet(ids, sources, labels, class_names), np.array(split, dtype=object), note)


def read_cifar100(path: str) -> Source:
    """Read CIFAR-100 (Krizhevsky, 2009): 60,000 images of 32 x 32 pixels in 100 classes.

    Its published split has the same classes in train and test. Here both parts are pooled; classes 0-49 (of the
    alphabetical list) are for training and 50-99 for test. Read from ``cifar-100-binary`` below ``path`` (the binary
    version, since the Python version consists of pickles); downloaded there if missing.

    Raises:
        DataError: the data is missing and cannot be downloaded, or is broken.
    """
    root = Path(path) / "cifar-100-binary"
    if not root.is_dir():
        _fetch_cifar100(path)
    ids: list[str] = []
    sources: list[ImageSource] = []
    labels: list[np.ndarray] = []
    for part in ("train", "test"):
        records = _cifar100_records(root / f"{part}.bin")
        ids.extend(f"{part}/{i:05d}" for i in range(len(records)))
        labels.append(records[:, 1].astype(np.int64))
        sources.extend(np.ascontiguousarray(records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)))
    try:
        class_names = (root / "fine_label_names.txt").read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{root / 'fine_label_names.txt'} cannot be read ({error}). Download the data set again."
        ) from error
    if len(class_names) != 100:
        raise DataError(
            f"{root / 'fine_label_names.txt'} names {len(class_names)} classes, not 100. Download it again."
        )
    images = ImageSet(ids, sources, np.concatenate(labels), class_names)
    split = np.where(np.concatenate(labels) < 50, TRAIN, TEST).astype(object)
    return Source(images, split, "train: classes 0-49; test: classes 50-99; images of both published parts pooled")


def _cifar100_records(file: Path) -> np.ndarray:
    """Return the records of a file in the binary version, uint8 ``(N, 3074)``."""
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}). Download the data set again.") from error
    if not len(content) or len(content) % _CIFAR100_RECORD:
        raise DataError(
            f"{file} has {len(content)} bytes, not a multiple of the {_CIFAR100_RECORD} of one image. "
            "Download the data set again."
        )
    return content.reshape(-1, _CIFAR100_RECORD)


def _fetch_omniglot(path: str, name: str) -> None:
    from torchvision.datasets import Omniglot

    try:
        Omniglot(path, background=name == "images_background", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Omniglot is not in {path} and cannot be downloaded ({error}). "
            f"Put {name}.zip of brendenlake/omniglot into {Path(path) / 'omniglot-py'}."
        ) from error


def _fetch_cifar100(path: str) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(_CIFAR100_URL, path, md5=_CIFAR100_MD5)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"CIFAR-100 is not in {path} and cannot be downloaded ({error}). Put {Path(_CIFAR100_URL).name} into "
            f"{path}."
        ) from error
