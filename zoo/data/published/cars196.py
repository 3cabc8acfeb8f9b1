"""``cars196:PATH``, in its published layouts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.published.layout import Root, source_of
from zoo.errors import DataError


def read_cars196(path: str) -> Source:
    """Read Cars-196 (Krause et al., 3DRR 2013): 16,185 photographs of 196 car models.

    Classes 1-98 are for training and 99-196 for test, as in the metric-learning literature. ``path`` is the folder that
    holds ``cars_annos.mat`` and ``car_ims``, or ``devkit``, ``cars_train`` and ``cars_test`` (their split is by image,
    and not used); the folder above it; or a zip archive of either. Needs scipy.

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
                f"{root.where(name)} lacks annotations with {column} and class ({error}). Download the data set again."
            ) from error
    labels = np.array(numbers, dtype=np.int64) - 1
    sources = [root.image(name) for name in ids]
    split = np.where(labels < 98, TRAIN, TEST)
    return source_of(ids, sources, labels, class_names, split, "train: classes 1-98; test: classes 99-196")


def _variable(root: Root, name: str, variable: str) -> Any:
    """Return a variable of a MATLAB file; such files hold numbers and text, never code."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(f"{root.where(name)} is a MATLAB file; reading it needs scipy: pip install scipy") from error
    try:
        content: dict[str, Any] = loadmat(io.BytesIO(root.read(name)))
    except (MatReadError, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{root.where(name)} is not a readable MATLAB file ({error}). Download it again.") from error
    if variable not in content:
        raise DataError(f"{root.where(name)} lacks {variable}. Download the data set again.")
    return content[variable]
