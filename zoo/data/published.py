"""Published data sets in the layouts and splits their authors give them in. Nothing is downloaded."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet, ImageSource, ZipMember
from zoo.data.splits import TEST, TRAIN, Source
from zoo.errors import DataError


class Root:
    """A folder, or a zip archive of one, to read files and name images in."""

    def __init__(self, path: str, *markers: str) -> None:
        """Find the folder that holds one of ``markers``: the path itself or one folder below it.

        Raises:
            DataError: the path is missing, or no such folder is in it.
        """
        self.path = Path(path)
        self.archive = self.path.is_file()
        self.names: list[str] = []
        if not self.path.exists():
            raise DataError(f"{path} does not exist. Check the path given as data.")
        if self.archive:
            try:
                with zipfile.ZipFile(self.path) as opened:
                    self.names = opened.namelist()
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"{path} is neither a folder nor a readable zip archive ({error}). Extract it first."
                ) from error
        for marker in markers:
            if self.archive:
                found = sorted((name for name in self.names if f"/{name}".endswith(f"/{marker}")), key=len)
            else:
                below = [self.path / marker, *sorted(self.path.glob(f"*/{marker}"))]
                found = [file.relative_to(self.path).as_posix() for file in below if file.exists()]
            if found:
                self.prefix = found[0].removesuffix(marker)
                self.marker = marker
                return
        raise DataError(f"{path} holds no {' or '.join(markers)}; it is not this data set in its published layout.")

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        try:
            if self.archive:
                with zipfile.ZipFile(self.path) as opened:
                    return opened.read(self.prefix + name)
            return (self.path / self.prefix / name).read_bytes()
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.where(name)} cannot be read ({error}). Fetch the data set anew.") from error

    def text(self, name: str) -> str:
        """Return a text file's content."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(name)} is not UTF-8 ({error}). Fetch the data set anew.") from error

    def image(self, name: str) -> ImageSource:
        """Name an image."""
        if self.archive:
            return ZipMember(self.path, self.prefix + name)
        return self.path / self.prefix / name

    def has_file(self, name: str) -> bool:
        """Return whether a file is in the data set's folder."""
        return self.prefix + name in self.names if self.archive else (self.path / self.prefix / name).is_file()

    def has_folder(self, name: str) -> bool:
        """Return whether a folder of that name, such as ``Img/img``, is in the data set's."""
        if self.archive:
            return any(entry.startswith(f"{self.prefix}{name}/") for entry in self.names)
        return (self.path / self.prefix / name).is_dir()

    def where(self, name: str) -> str:
        """Return how messages name a file."""
        return f"{self.path}: {self.prefix}{name}"


@dataclass(frozen=True)
class _Row:
    """A line of a text file, cut into cells, and where it stands."""

    where: str
    cells: Sequence[str]

    def number(self, cell: int) -> int:
        try:
            return int(self.cells[cell])
        except ValueError:
            raise self.error(f"{self.cells[cell]!r} is not a number") from None

    def index(self, cell: int, known: dict[int, int]) -> int:
        """Return the place that the data set's own id in a cell has in our arrays."""
        number = self.number(cell)
        if number not in known:
            raise self.error(f"id {number} is not listed")
        return known[number]

    def error(self, what: str) -> DataError:
        return DataError(f"{self.where}: {what}. Mend the line, or fetch the data set anew.")


def _rows(root: Root, name: str, columns: str, header: int = 0, separator: str | None = None) -> Iterator[_Row]:
    """Cut each line after the ``header`` first, unless blank, into as many cells as ``columns`` names."""
    for number, line in enumerate(root.text(name).splitlines(), start=1):
        if number <= header or not line.strip():
            continue
        row = _Row(f"{root.where(name)} line {number}", [cell.strip() for cell in line.split(separator)])
        if len(row.cells) != len(columns.split()):
            raise row.error(f"found {line.strip()!r} where there should be {columns}")
        yield row


def _source(
    ids: list[str],
    sources: list[ImageSource],
    labels: Sequence[int] | np.ndarray,
    class_names: list[str],
    split: Sequence[str] | np.ndarray,
    note: str,
    roles: Sequence[str] | None = None,
) -> Source:
    images = ImageSet(
        ids,
        sources,
        np.asarray(labels, dtype=np.int64),
        class_names,
        None if roles is None else np.array(roles, dtype=object),
    )
    return Source(images, np.asarray(split, dtype=object), note)


def read_cub200(path: str) -> Source:
    """CUB-200-2011 (Wah et al., 2011): 11,788 photographs of 200 bird species.

    Classes 1-100 train and 101-200 test, as in the metric-learning literature, not as ``train_test_split.txt`` says,
    which shares classes. ``path``: the folder ``CUB_200_2011``, the one above it, or a zip archive of either.

    Raises:
        DataError: a file is missing or a line of it malformed.
    """
    root = Root(path, "image_class_labels.txt")
    classes = {row.number(0): row.cells[1] for row in _rows(root, "classes.txt", "id name")}
    index = {number: i for i, number in enumerate(sorted(classes))}
    names = {row.number(0): row.cells[1] for row in _rows(root, "images.txt", "id path")}
    place = {number: i for i, number in enumerate(names)}
    labels = np.full(len(names), -1, dtype=np.int64)
    for row in _rows(root, "image_class_labels.txt", "image class"):
        labels[row.index(0, place)] = row.index(1, index)
    if (labels < 0).any():
        unlabelled = list(names.values())[int(np.argmax(labels < 0))]
        raise DataError(
            f"{root.where('image_class_labels.txt')} has no line for {unlabelled}. Fetch the data set anew."
        )
    ids = list(names.values())
    sources = [root.image(f"images/{name}") for name in ids]
    split = np.where(np.array(sorted(classes))[labels] <= 100, TRAIN, TEST)
    class_names = [classes[number] for number in sorted(classes)]
    return _source(ids, sources, labels, class_names, split, "train: classes 1-100; test: classes 101-200")


def read_cars196(path: str) -> Source:
    """Cars-196 (Krause et al., 3DRR 2013): 16,185 photographs of 196 car models.

    Classes 1-98 train and 99-196 test, as in the metric-learning literature. ``path``: the folder that holds
    ``cars_annos.mat`` and ``car_ims``, or ``devkit``, ``cars_train`` and ``cars_test`` (whose own division into train
    and test is of images, and not used); the one above it, or a zip archive of either. Needs scipy.

    Raises:
        DataError: a file is missing or malformed, or scipy is not installed.
    """
    root = Root(path, "cars_annos.mat", "devkit/cars_meta.mat")
    if root.marker == "cars_annos.mat":
        listed = {"cars_annos.mat": ("relative_im_path", "")}
    else:
        of_test = "cars_test_annos_withlabels.mat"
        of_test = of_test if root.has_file(of_test) else f"devkit/{of_test}"
        listed = {"devkit/cars_train_annos.mat": ("fname", "cars_train/"), of_test: ("fname", "cars_test/")}
    class_names = [str(np.ravel(name)[0]) for name in np.ravel(_variable(root, root.marker, "class_names"))]
    ids: list[str] = []
    numbers: list[int] = []
    for name, (column, folder) in listed.items():
        annotations = np.ravel(_variable(root, name, "annotations"))
        try:
            ids += [folder + str(np.ravel(file)[0]) for file in annotations[column]]
            numbers += [int(np.ravel(number)[0]) for number in annotations["class"]]
        except (IndexError, ValueError, TypeError) as error:
            raise DataError(
                f"{root.where(name)} lacks annotations with {column} and class ({error}). Fetch the data set anew."
            ) from error
    labels = np.array(numbers, dtype=np.int64) - 1
    sources = [root.image(name) for name in ids]
    split = np.where(labels < 98, TRAIN, TEST)
    return _source(ids, sources, labels, class_names, split, "train: classes 1-98; test: classes 99-196")


def _variable(root: Root, name: str, variable: str) -> Any:
    """Return a variable of a MATLAB file, which holds numbers and text only, never code."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(f"{root.where(name)} is a MATLAB file; reading it needs scipy: pip install scipy") from error
    try:
        content: dict[str, Any] = loadmat(io.BytesIO(root.read(name)))
    except (MatReadError, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{root.where(name)} is not a readable MATLAB file ({error}). Fetch it anew.") from error
    if variable not in content:
        raise DataError(f"{root.where(name)} lacks {variable}. Fetch the data set anew.")
    return content[variable]


def read_sop(path: str) -> Source:
    """Stanford Online Products (Oh Song et al., CVPR 2016): 120,053 photographs of 22,634 products.

    Split as the authors do: the products of ``Ebay_train.txt`` train, those of ``Ebay_test.txt`` test. ``path``: the
    folder that holds them, the one above it, or a zip archive of either.

    Raises:
        DataError: a file is missing or a line of it malformed.
    """
    root = Root(path, "Ebay_train.txt")
    ids: list[str] = []
    products: list[int] = []
    split: list[str] = []
    for name, part in (("Ebay_train.txt", TRAIN), ("Ebay_test.txt", TEST)):
        for row in _rows(root, name, "image_id class_id super_class_id path", header=1):
            ids.append(row.cells[3])
            products.append(row.number(1))
            split.append(part)
    numbers, labels = np.unique(np.array(products, dtype=np.int64), return_inverse=True)
    sources = [root.image(name) for name in ids]
    class_names = [str(number) for number in numbers]
    return _source(ids, sources, labels, class_names, split, "train: Ebay_train.txt; test: Ebay_test.txt")


def read_inshop(path: str) -> Source:
    """DeepFashion In-Shop (Liu et al., CVPR 2016): 52,712 photographs of 7,982 clothing items.

    Split as the authors do: 3,997 items train; of the other 3,985 the query photographs are looked for among the
    gallery photographs. ``path``: the folder that holds ``Eval/list_eval_partition.txt`` (or that file itself, out of
    ``Eval``) and the images below ``Img/img`` or ``img``, the folder above it, or a zip archive of either.

    Raises:
        DataError: a file is missing or a line of it malformed.
    """
    root = Root(path, "Eval/list_eval_partition.txt", "list_eval_partition.txt")
    folder = next((above for above in ("Img/", "") if root.has_folder(f"{above}img")), None)
    if folder is None:
        raise DataError(f"{path} holds neither img nor Img/img. Extract img.zip of the data set there.")
    ids: list[str] = []
    items: list[str] = []
    split: list[str] = []
    roles: list[str] = []
    # First line: the number of images. Second line: the names of the columns.
    for row in _rows(root, root.marker, "image_name item_id evaluation_status", header=2):
        name, item, status = row.cells
        if status not in ("train", QUERY, GALLERY):
            raise row.error(f"evaluation_status {status!r} is not train, query or gallery")
        ids.append(name)
        items.append(item)
        split.append(TRAIN if status == "train" else TEST)
        roles.append(BOTH if status == "train" else status)
    class_names, labels = np.unique(np.array(items, dtype=str), return_inverse=True)
    sources = [root.image(folder + name) for name in ids]
    note = "train, query and gallery as in list_eval_partition.txt"
    return _source(ids, sources, labels, class_names.tolist(), split, note, roles)


def read_grocery(path: str) -> Source:
    """Grocery Store (Klasson et al., WACV 2019): 5,421 photographs of 81 products, labelled by fine class.

    The authors' split shares classes between train and test, so it is not kept: divide by ``even-odd`` (of the fine
    class id) or another rule. ``path``: the repository's folder or a zip archive of it.

    Raises:
        DataError: a file is missing or a line of it malformed.
    """
    return _read_grocery(Root(path, "dataset/classes.csv"))[0]


def read_grocery_catalogue(path: str) -> Source:
    """Grocery Store, photographs looked for in the shop's catalogue: one picture of each of the 81 products.

    Products of even fine class id train, with their photographs. Photographs of the others are the queries; the gallery
    are the catalogue's pictures of all products. Those of the products that train, which no query is of, are classes of
    their own, since nothing tested is of a class that trained. ``path``: as for :func:`read_grocery`.

    Raises:
        DataError: a file is missing or a line of it malformed.
    """
    root = Root(path, "dataset/classes.csv")
    photographs, classes = _read_grocery(root)
    images = photographs.images
    assert images.labels is not None
    tested = np.array([number % 2 == 1 for number in sorted(classes)])
    pictures = [classes[number].picture for number in sorted(classes)]
    beside = [f"{name} (in the catalogue alone)" for name in images.class_names]
    count = len(pictures)
    labels = np.where(tested, np.arange(count), count + np.arange(count))
    both = ImageSet(
        [*images.ids, *pictures],
        [*images.sources, *(root.image(f"dataset/{picture}") for picture in pictures)],
        np.concatenate([images.labels, labels]),
        [*images.class_names, *beside],
        np.array([*(QUERY if tested[label] else BOTH for label in images.labels), *[GALLERY] * count]),
    )
    split = np.array([*("test" if tested[label] else "train" for label in images.labels), *["test"] * count])
    return Source(both, split, "products of even id train; photographs of the others are looked for in the catalogue")


def _read_grocery(root: Root) -> tuple[Source, dict[int, _Product]]:
    """Return the photographs, and the products by fine class id."""
    classes = _grocery_classes(root)
    index = {number: i for i, number in enumerate(sorted(classes))}
    ids: list[str] = []
    labels: list[int] = []
    for part in ("train", "val", "test"):
        for row in _rows(root, f"dataset/{part}.txt", "path fine coarse", separator=","):
            ids.append(row.cells[0])
            labels.append(row.index(1, index))
    sources = [root.image(f"dataset/{name}") for name in ids]
    class_names = [classes[number].name for number in sorted(classes)]
    return Source(ImageSet(ids, sources, np.array(labels, dtype=np.int64), class_names)), classes


@dataclass(frozen=True)
class _Product:
    name: str
    picture: str


def _grocery_classes(root: Root) -> dict[int, _Product]:
    """Return name and catalogue picture of each product by its fine class id."""
    classes = {}
    reader = csv.reader(io.StringIO(root.text("dataset/classes.csv")))
    for cells in reader:
        if reader.line_num == 1 or not cells:
            continue
        row = _Row(f"{root.where('dataset/classes.csv')} line {reader.line_num}", cells)
        if len(cells) < 5:
            raise row.error(f"found {cells[0]!r} where there should be name, id, coarse name and id, and picture")
        classes[row.number(1)] = _Product(cells[0], cells[4].lstrip("/"))
    return classes
