"""Example queries and classes for the page, teacher beside model, with thumbnails."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.report.formats import significant
from export.report.plots import data_uri
from zoo.retrieval.label_measures import NDCG_K

if TYPE_CHECKING:
    from zoo.data import ImageSet
    from zoo.retrieval.label_measures import LabelRetrievalResult
    from zoo.retrieval.measures import RetrievalResult

_SHOWN_NEIGHBOURS = 5
_SHOWN_CHANGED, _SHOWN_RIGHT, _SHOWN_CLASSES = 6, 3, 10
_THUMBNAIL = 96  # pixels; shown at 85 or less


@dataclass(frozen=True)
class Picture:
    """One thumbnail.

    Attributes:
        uri: the image, as a ``data:`` URI.
        id: its id in the image set.
        caption: its class, or how far its label is from the query's.
        right: whether it shares the query's class; None for the query itself, and without classes.
    """

    uri: str
    id: str
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class Example:
    """A query and its neighbours by teacher and model, nearest first."""

    query: Picture
    teacher: list[Picture]
    model: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Queries that only the teacher, only the model, or both answer right.

    Attributes:
        kind: "lost", "won" or "right".
        heading: heading on the page.
        meaning: what the queries have in common.
        otherwise: text shown if there are none.
        total: number of such queries.
        shown: some of them.
        choice: how those were chosen.
    """

    kind: str
    heading: str
    meaning: str
    otherwise: str
    total: int
    shown: list[Example]
    choice: str


def class_comparison(teacher: RetrievalResult, model: RetrievalResult, images: ImageSet, name: str) -> dict[str, Any]:
    """Return the page's examples of queries and classes."""
    labels = _labels(images)
    thumbnails = _Thumbnails(images)
    before, after = teacher.recall[1], model.recall[1]

    def example(row: int) -> Example:
        query = int(teacher.queries[row])

        def found(result: RetrievalResult) -> list[Picture]:
            nearest = [int(index) for index in result.neighbours[row, :_SHOWN_NEIGHBOURS] if index >= 0]
            return [
                thumbnails.picture(index, images.class_names[labels[index]], bool(labels[index] == labels[query]))
                for index in nearest
            ]

        return Example(thumbnails.picture(query, images.class_names[labels[query]]), found(teacher), found(model))

    def gallery(kind: str, heading: str, meaning: str, otherwise: str, chosen: np.ndarray, count: int) -> Gallery:
        rows = _spread(np.flatnonzero(chosen), labels[teacher.queries], count)
        shown = [example(row) for row in rows]
        return Gallery(kind, heading, meaning, otherwise, int(chosen.sum()), shown, "spread over the classes")

    lost = f"The teacher's nearest image is right, that of {name} is wrong."
    won = f"The teacher's nearest image is wrong, that of {name} is right."
    right = "Both nearest images are right."
    return {
        "galleries": [
            gallery("lost", "Lost", lost, "No query was lost.", before & ~after, _SHOWN_CHANGED),
            gallery("won", "Won", won, "No query was won.", ~before & after, _SHOWN_CHANGED),
            gallery("right", "Right in both", right, "No query is right in both.", before & after, _SHOWN_RIGHT),
        ],
        "both_right": int((before & after).sum()),
        "both_wrong": int((~before & ~after).sum()),
        "classes": _class_changes(teacher, model, images)[:_SHOWN_CLASSES],
        "depth": teacher.neighbours.shape[1],
    }


def label_comparison(
    teacher: LabelRetrievalResult, model: LabelRetrievalResult, images: ImageSet, name: str
) -> dict[str, Any]:
    """Return the page's examples of queries if there are no classes."""
    thumbnails = _Thumbnails(images)
    change = model.ndcg(NDCG_K) - teacher.ndcg(NDCG_K)

    def example(row: int) -> Example:
        def found(result: LabelRetrievalResult) -> list[Picture]:
            nearest = zip(result.neighbours[row].tolist(), result.distances[row].tolist(), strict=True)
            shown = [(index, distance) for index, distance in nearest if index >= 0][:_SHOWN_NEIGHBOURS]
            return [thumbnails.picture(index, significant(distance)) for index, distance in shown]

        query = int(teacher.queries[row])
        return Example(thumbnails.picture(query, images.ids[query]), found(teacher), found(model))

    def gallery(kind: str, heading: str, meaning: str, otherwise: str, gain: np.ndarray) -> Gallery:
        order = np.argsort(-gain, kind="stable")[:_SHOWN_CHANGED]
        shown = [example(int(row)) for row in order if gain[row] > 0]
        choice = "those that changed most"
        return Gallery(kind, heading, meaning, otherwise, int((gain > 0).sum()), shown, choice)

    lost = f"The order that {name} finds has a lower nDCG@{NDCG_K} than the teacher's."
    won = f"The order that {name} finds has a higher nDCG@{NDCG_K} than the teacher's."
    return {
        "galleries": [
            gallery("lost", "Lost", lost, "No query was lost.", -change),
            gallery("won", "Won", won, "No query was won.", change),
        ],
        "both_right": None,
        "both_wrong": None,
        "classes": None,
        "depth": teacher.neighbours.shape[1],
    }


def _class_changes(teacher: RetrievalResult, model: RetrievalResult, images: ImageSet) -> list[dict[str, Any]]:
    """Return the classes whose Recall@1 changed, largest change first; at equal change, more queries first."""
    labels = _labels(images)[teacher.queries]
    queries = np.bincount(labels, minlength=len(images.class_names))
    before = np.bincount(labels, weights=teacher.recall[1], minlength=len(queries)) / np.maximum(queries, 1)
    after = np.bincount(labels, weights=model.recall[1], minlength=len(queries)) / np.maximum(queries, 1)
    order = np.lexsort((-queries, -np.abs(after - before)))
    return [
        {
            "name": images.class_names[label],
            "queries": int(queries[label]),
            "teacher": float(before[label]),
            "model": float(after[label]),
        }
        for label in order
        if before[label] != after[label]
    ]


def _spread(rows: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Choose up to ``count`` rows from as many classes as possible, spread evenly over the order of classes.

    Args:
        rows: int ``(n,)``, ascending, to choose from.
        labels: int, the class of each row; indexed by the values of ``rows``.
        count: largest number of rows.
    """
    met: dict[int, int] = {}
    rounds: dict[int, list[int]] = {}  # the first row of each class, then the second ...
    for row in sorted(rows.tolist(), key=lambda row: (labels[row], row)):
        label = int(labels[row])
        met[label] = turn = met.get(label, 0) + 1
        rounds.setdefault(turn, []).append(row)
    chosen: list[int] = []
    for turn in sorted(rounds):
        wanted = min(count - len(chosen), len(rounds[turn]))
        places = np.linspace(0, len(rounds[turn]) - 1, wanted).round().astype(int)
        chosen += [rounds[turn][place] for place in places]
    return chosen


class _Thumbnails:
    """Makes thumbnails, each image's only once."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._uris: dict[int, str] = {}

    def picture(self, index: int, caption: str, right: bool | None = None) -> Picture:
        from PIL import Image

        if index not in self._uris:
            image = Image.fromarray(self.images.pixels(index))
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=85)
            self._uris[index] = data_uri("image/jpeg", buffer.getvalue())
        return Picture(self._uris[index], self.images.ids[index], caption, right)


def _labels(images: ImageSet) -> np.ndarray:
    if images.labels is None:
        from zoo.errors import DataError

        raise DataError("A report cannot be made on images without labels. Give a labelled set.")
    return images.labels
