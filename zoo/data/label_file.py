"""Continuous labels in a file beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoo.data.continuous import ContinuousLabels, MatrixLabels, VectorLabels
from zoo.data.image_set import DataSplits, ImageSet
from zoo.data.rows import known_columns, read_rows, same_name
from zoo.data.table import PATHS
from zoo.errors import DataError, OptionError, all_shown, did_you_mean, first_line, shown
from zoo.formats.arrays import read_array, read_arrays
from zoo.images import require_regular
from zoo.paths import given_path

_KNOWN = "a .csv with a column path and columns of numbers, an .npz with ids and vectors or distances, or an .npy"


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Continuous labels by image id.

    Attributes:
        path: the file.
        ids: image id of each label.
        labels: the labels, in the order of the ids.
    """

    path: Path
    ids: Sequence[str]
    labels: ContinuousLabels

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise DataError(f"{self.path} has {len(self.labels)} labels for {len(self.ids)} ids; one each is needed.")
        seen: dict[str, str] = {}
        for name in self.ids:
            same = same_name(name)
            if same in seen:
                spelled = "" if seen[same] == name else f", as {shown(seen[same])} too"
                raise DataError(f"{self.path} has image {shown(name)} more than once{spelled}. Keep one label of it.")
            seen[same] = name

    def label(self, splits: DataSplits) -> DataSplits:
        """Return the splits with their continuous labels.

        Raises:
            DataError: an image has no label; names it.
        """
        row_of = {same_name(name): row for row, name in enumerate(self.ids)}

        def labelled(images: ImageSet) -> ImageSet:
            names = [same_name(name) for name in images.ids]
            missing = [name for name, same in zip(images.ids, names, strict=True) if same not in row_of]
            if missing:
                raise DataError(
                    f"{self.path} has no label for image {shown(missing[0])} ({len(missing)} of {len(images)} missing)."
                    f"{did_you_mean(missing[0], self.ids, count=1)} Add them, or leave the images out of the data."
                )
            return replace(images, continuous=self.labels.subset(np.array([row_of[name] for name in names], int)))

        return replace(
            splits,
            train=labelled(splits.train),
            validation=labelled(splits.validation),
            test=labelled(splits.test),
            protocol={**splits.protocol, "label_distance": self.labels.description},
        )


def read_labels(path: str | Path, metric: str = "euclidean", table_ids: Sequence[str] | None = None) -> LabelFile:
    """Read continuous labels.

    - ``.csv``: a table like ``csv:FILE``, with a column ``path`` (the image's id) and one or more columns of numbers.
    - ``.npz``: ``ids``, text ``(N,)``, and either ``vectors``, float ``(N, L)``, or ``distances``, float ``(N, N)``,
      symmetric with a diagonal of zeros.
    - ``.npy``: float ``(N, L)``, one row for each row of the table of images, in the same order.

    Args:
        path: the file.
        metric: how vectors are compared: "euclidean" or "cosine".
        table_ids: image ids in the order of the table of images; None if the data is not a table.

    Raises:
        DataError: the file is missing, of another kind or broken; names row and value.
        OptionError: the metric is unknown, or is given although the file contains distances.
    """
    path = given_path(path)
    if path.suffix == ".csv":
        return _read_csv(path, metric)
    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"Continuous labels {path} must be {_KNOWN}.")
    arrays = _arrays(path)
    if path.suffix == ".npy":
        if table_ids is None:
            raise DataError(
                f"Continuous labels {path} have no image ids, so they fit tables only. "
                "Write an .npz with ids and vectors instead."
            )
        return LabelFile(path, table_ids, VectorLabels(arrays["rows"], metric, _names(path, arrays["rows"])))
    kinds = [name for name in ("vectors", "distances") if name in arrays]
    if "ids" not in arrays or len(kinds) != 1 or arrays["ids"].ndim != 1:
        raise DataError(f"{path} must hold ids (N,) and either vectors or distances, found {all_shown(list(arrays))}.")
    ids = [str(name) for name in arrays["ids"]]
    names = _names(path, arrays[kinds[0]], ids)
    if kinds == ["vectors"]:
        return LabelFile(path, ids, VectorLabels(arrays["vectors"], metric, names))
    if metric != "euclidean":
        raise OptionError(f"label_metric is {metric!r}, but {path} holds distances already. Leave label_metric out.")
    return LabelFile(path, ids, MatrixLabels(arrays["distances"], names))


def _names(path: Path, labels: np.ndarray, ids: Sequence[str] = ()) -> list[str]:
    """Return how messages name each row: by its id, or by its number if it has none."""
    if not labels.ndim:
        raise DataError(f"Continuous labels {path} are a single number. They must be {_KNOWN}.")
    unnamed = range(len(ids), len(labels))
    return [f"{path}: the label of {name}" for name in ids] + [f"{path}: row {row}" for row in unnamed]


def _read_csv(path: Path, metric: str) -> LabelFile:
    lines, rows = zip(*read_rows(path, _checked_header), strict=True)
    columns = [column for column in rows[0] if column != "path"]
    vectors = np.empty((len(rows), len(columns)))
    for place, (line, row) in enumerate(zip(lines, rows, strict=True)):
        for at, column in enumerate(columns):
            try:
                vectors[place, at] = float(row[column])
            except ValueError:
                raise DataError(
                    f"{path} line {line}: {all_shown([column])} {shown(row[column])} is not a number. Fix it, or "
                    "remove the column."
                ) from None
    names = [f"{path} line {line}: the label" for line in lines]
    return LabelFile(path, [row["path"] for row in rows], VectorLabels(vectors, metric, names))


def _checked_header(table: object, cells: list[str]) -> list[str]:
    paths = known_columns(table, cells, {"path": PATHS})
    columns = [column or cell for column, cell in zip(paths, cells, strict=True)]
    if columns.count("path") != 1 or len(columns) < 2 or len(set(columns)) != len(columns):
        raise DataError(
            f"{table}: its header must be path and one or more columns of numbers, all different, found "
            f"{all_shown(cells)}."
        )
    return columns


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name, or the array of an ``.npy`` file as "rows"."""
    try:
        require_regular(path)
        return {"rows": read_array(path)} if path.suffix == ".npy" else read_arrays(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"Continuous labels {path} cannot be read ({reason}). They must be {_KNOWN}.") from error
