"""The report of a validation as a page to hand on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.report.content import indexes_of, ks_of, models_of, retained, score_of
from export.report.formats import DASH, count, decimals, megabytes, percent, points, readable, significant
from export.report.plots import data_uri, plots_of
from zoo.retrieval.label_measures import NDCG_K
from zoo.retrieval.measures import at_least

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
        right: whether it shares the query's class; None for the query itself, and where there are no classes.
    """

    uri: str
    id: str
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class Example:
    """A query with what the teacher and the model find for it, nearest first."""

    query: Picture
    teacher: list[Picture]
    model: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Queries that teacher and model answer differently, or alike.

    Attributes:
        kind: "lost", "won" or "right".
        heading: in words.
        meaning: what the queries have in common.
        otherwise: said where there is none.
        total: how many there are.
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


def render_html(
    content: dict[str, Any],
    results: Mapping[str, RetrievalResult],
    images: ImageSet,
    by_labels: Mapping[str, LabelRetrievalResult] | None = None,
) -> str:
    """Return the report as one HTML page that needs no other file, no network and no script.

    Args:
        content: what ``report.json`` holds; see :func:`export.report.validation.validate`.
        results: the measures of each query, by stage; "teacher" and the last model of ``content`` are compared. Empty
            where the images have no classes.
        images: the labelled images that were measured on.
        by_labels: the same by continuous labels; needed where there are no classes.

    Raises:
        DataError: an image that is to be shown cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    stages = content["stages"]
    models = models_of(content)
    last = models[-1]
    if results:
        compared = _class_comparison(results["teacher"], results[last["stage"]], images, last["stage"])
    elif by_labels:
        compared = _label_comparison(by_labels["teacher"], by_labels[last["stage"]], images, last["stage"])
    else:
        from zoo.errors import DataError

        raise DataError("A report cannot be made on images without labels. Give a labelled set.")
    environment = Environment(
        loader=PackageLoader("export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "decimals": decimals,
        "count": count,
        "megabytes": megabytes,
        "readable": readable,
        "score": score_of,
        "significant": significant,
    }
    html = environment.get_template("report.html.jinja").render(
        content=content,
        data=content["data"],
        stages=stages,
        models=models,
        pairs=[stage["pair"]["finding"] for stage in stages if "pair" in stage],
        indexes=indexes_of(content),
        by_name={stage["stage"]: stage for stage in stages},
        last=last,
        ks=ks_of(content),
        label_ks=sorted(stages[0].get("ndcg", {}), key=int),
        measure=retained(content),
        headline=_headline(stages[0], last, retained(content)),
        gate=_gate(content),
        threads=sorted({entry["threads"] for stage in stages for entry in stage["latency_ms_by_threads"]}),
        plots=plots_of(content),
        **compared,
        images=len(images),
        class_count=None if images.labels is None else len(np.unique(images.labels)),
        dash=DASH,
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which no UTF-8 file can hold.
    return html.encode("utf-8", "replace").decode("utf-8")


def _class_comparison(teacher: RetrievalResult, model: RetrievalResult, images: ImageSet, name: str) -> dict[str, Any]:
    """Return what the page says of single queries and of classes."""
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


def _label_comparison(
    teacher: LabelRetrievalResult, model: LabelRetrievalResult, images: ImageSet, name: str
) -> dict[str, Any]:
    """Return what the page says of single queries, where there are no classes."""
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


def _headline(teacher: dict[str, Any], model: dict[str, Any], measure: str) -> str:
    """Return one sentence: what the model keeps, and what it saves as far as that is known."""
    low, high = model["retention_interval"]
    sentence = (
        f"{model['stage']} keeps {percent(model['retention'], 1)}\u00a0% of the teacher's {measure} "
        f"[{percent(low, 1)},\u00a0{percent(high, 1)}]"
    )
    compared = [
        _times(teacher["parameters"], model["parameters"], "{}× fewer parameters", "{}× as many parameters"),
        _times(teacher["dim"], model["dim"], "{}× fewer dimensions", "{}× as many dimensions"),
        _times(teacher["bytes"], model["bytes"], "a {}× smaller file", "a {}× larger file"),
    ]
    if teacher["latency_ms"] and model["latency_ms"]:
        before, after = teacher["latency_ms"]["median"], model["latency_ms"]["median"]
        where = "on one thread"
        if teacher["runtime"] != model["runtime"]:
            where += f" ({model['runtime']} against {teacher['runtime']})"
        compared.append(_times(before, after, f"{{}}× less latency {where}", f"{{}}× the latency {where}"))
    known = [words for words in compared if words]
    if not known:
        return f"{sentence}."
    return f"{sentence} with {', '.join(known)}."


def _times(before: float | None, after: float | None, less: str, more: str) -> str | None:
    """Return ``less`` or ``more`` with the ratio put in; None where a value is unknown or both are about the same."""
    if not before or not after:
        return None
    ratio = max(before / after, after / before)
    number = f"{ratio:.1f}".removesuffix(".0") if ratio < 10 else f"{ratio:.0f}"
    return None if number == "1" else (less if before > after else more).format(number)


def _gate(content: dict[str, Any]) -> tuple[str, str]:
    """Return the verdict, "passed", "failed" or "none", and a sentence on it."""
    asked = content["gate"]["min_retention"]
    if asked is None:
        return "none", "No gate: no smallest retention was asked for."
    wanted = f"{100 * asked:g}\u00a0% of the teacher's {retained(content)}"
    if content["gate"]["passed"]:
        return "passed", f"Gate passed: every model keeps at least {wanted}."
    below = [stage for stage in content["stages"][1:] if not at_least(stage["retention"], asked)]
    kept = ", ".join(f"{stage['stage']} keeps {percent(stage['retention'])}\u00a0%" for stage in below)
    return "failed", f"Gate failed: {wanted} was asked for; {kept}."


def _class_changes(teacher: RetrievalResult, model: RetrievalResult, images: ImageSet) -> list[dict[str, Any]]:
    """Return the classes whose Recall@1 changed, the largest change first; of equal changes, more queries first."""
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
    """Choose up to ``count`` of the rows from as many classes as there are, evenly over the classes' order.

    Args:
        rows: int ``(n,)``, rising, to choose from.
        labels: int, the class of each row; indexed by the values of ``rows``.
        count: how many.
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
    """Makes the thumbnail of each image once."""

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
