"""The report of a validation: a page to hand on, a table for the terminal, a plot."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.label_retrieval import NDCG_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

    from zoo.data import ImageSet
    from zoo.label_retrieval import LabelRetrievalResult
    from zoo.retrieval import RetrievalResult

DASH = "–"
_SHOWN_NEIGHBOURS = 5
_SHOWN_CHANGED, _SHOWN_RIGHT, _SHOWN_CLASSES = 6, 3, 10
_THUMBNAIL = 96  # pixels; shown at 85 or less
_TABLE_WIDTH, _INDEX_WIDTH = 120, 40
_COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a6761d")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Paths instead of fonts and a fixed salt: the same content gives the same bytes wherever it is opened.
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "grid.color": "#dddddd",
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
    "text.parse_math": False,
}


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
        content: what ``report.json`` holds; see :func:`export.validation.validate`.
        results: the measures of each query, by stage; "teacher" and the last model of ``content`` are compared. Empty
            where the images have no classes.
        images: the labelled images that were measured on.
        by_labels: the same by continuous labels; needed where there are no classes.

    Raises:
        DataError: an image that is to be shown cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    stages = content["stages"]
    models = _models(content)
    last = models[-1]
    if results:
        compared = _class_comparison(results["teacher"], results[last["stage"]], images, last["stage"])
    elif by_labels:
        compared = _label_comparison(by_labels["teacher"], by_labels[last["stage"]], images, last["stage"])
    else:
        from zoo.errors import DataError

        raise DataError("A report cannot be made on images without labels. Give a labelled set.")
    environment = Environment(
        loader=PackageLoader("export"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "decimals": _decimals,
        "count": _count,
        "megabytes": _megabytes,
        "readable": readable,
        "score": _score,
        "significant": _significant,
    }
    html = environment.get_template("report.html.jinja").render(
        content=content,
        data=content["data"],
        stages=stages,
        models=models,
        pairs=[stage["pair"]["finding"] for stage in stages if "pair" in stage],
        indexes=_indexes(content),
        by_name={stage["stage"]: stage for stage in stages},
        last=last,
        ks=_ks(content),
        label_ks=sorted(stages[0].get("ndcg", {}), key=int),
        measure=retained(content),
        headline=_headline(stages[0], last, retained(content)),
        gate=_gate(content),
        threads=sorted({entry["threads"] for stage in stages for entry in stage["latency_ms_by_threads"]}),
        plots=_plots(content),
        **compared,
        images=len(images),
        class_count=None if images.labels is None else len(np.unique(images.labels)),
        dash=DASH,
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which no UTF-8 file can hold.
    return html.encode("utf-8", "replace").decode("utf-8")


def retained(content: dict[str, Any]) -> str:
    """Return the name of the measure of which models keep a share: of classes where they are known."""
    return "Recall@1" if "recall" in content["stages"][0] else f"nDCG@{NDCG_K}"


def _models(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that are a model alone: no index, no mixed pair."""
    return [stage for stage in content["stages"] if "index" not in stage and "pair" not in stage]


def _indexes(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages with an index."""
    return [stage for stage in content["stages"] if "index" in stage]


def _score(stage: dict[str, Any]) -> float:
    """Return what a stage reaches in that measure."""
    score: float = stage["recall"]["1"] if "recall" in stage else stage["ndcg"][str(NDCG_K)]
    return score


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
            return [thumbnails.picture(index, _significant(distance)) for index, distance in shown]

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


def print_table(content: dict[str, Any], console: Console | None = None) -> None:
    """Print the stages as a table: measures and retention in percent, size in MB, median latency on one thread in ms.

    Where there are indexes, also what a vector takes in them and how long a search takes, embedding left out; below the
    table, what was found of mixed pairs. Label distances are what the labels have them in.

    Args:
        content: what ``report.json`` holds.
        console: where to print; standard output if None, widened where that is a file or pipe, so that nothing is cut.
    """
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from export.tables import wide_console

    console = console or wide_console(_TABLE_WIDTH + (_INDEX_WIDTH if _indexes(content) else 0))
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("stage", overflow="fold")
    columns = _measure_columns(content)
    for heading in (*columns, "retention", "parameters", "dim", "MB", "ms"):
        table.add_column(heading, justify="right", overflow="fold")
    indexed = bool(_indexes(content))
    for heading in ("bytes/vector", "ms/query") if indexed else ():
        table.add_column(heading, justify="right", overflow="fold")
    for stage in content["stages"]:
        low, high = stage["retention_interval"]
        cells = [
            stage["stage"],
            *(cell(stage) for cell in columns.values()),
            f"{_percent(stage['retention'])} [{_percent(low)}, {_percent(high)}]",
            _count(stage["parameters"]),
            _count(stage["dim"]),
            _megabytes(stage["bytes"]),
            _decimals((stage["latency_ms"] or {}).get("median")),
        ]
        if indexed:
            index = stage.get("index", {})
            cells += [_decimals(index.get("bytes_per_vector"), 1), _decimals(index.get("ms_per_query"), 3)]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for stage in content["stages"]:
        if "pair" in stage:
            console.print(Text(stage["pair"]["finding"]), soft_wrap=True)


def _measure_columns(content: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Return the heading of each column of measures, and what makes its cells of a stage."""

    def cell(measure: str, k: str, text: Callable[[float], str] = _percent) -> Callable[[dict[str, Any]], str]:
        return lambda stage: text(stage[measure][k])

    columns: dict[str, Callable[[dict[str, Any]], str]] = {}
    ks = _ks(content)[:4]
    for k in ks:
        columns[f"Recall@{k}" if k == ks[0] else f"@{k}"] = cell("recall", k)
    if ks:
        columns["MAP@R"] = lambda stage: _percent(stage["map_at_r"])
    if "ndcg" in content["stages"][0]:
        for k in (str(NDCG_K),) if ks else ("1", str(NDCG_K)):
            columns[f"nDCG@{k}"] = cell("ndcg", k)
            columns[f"distance@{k}"] = cell("mean_label_distance", k, _significant)
    return columns


def _drawn(content: dict[str, Any]) -> dict[str, Callable[[Axes, dict[str, Any]], None]]:
    """Return what draws each plot that the content has the numbers for, by name."""
    measured = content["stages"][0]
    plots: dict[str, Callable[[Axes, dict[str, Any]], None]] = {}
    if "recall" in measured:
        plots["recall"] = _draw_recall
    if "ndcg" in measured:
        plots |= {"ndcg": _draw_ndcg, "label_distance": _draw_label_distance}
    if _sized(content):
        plots["size"] = _draw_size
    return plots


def _plots(content: dict[str, Any]) -> dict[str, str]:
    """Return each plot as a ``data:`` URI, by name."""
    import matplotlib
    from matplotlib.figure import Figure

    plots = {}
    with matplotlib.rc_context(_STYLE):
        for name, draw in _drawn(content).items():
            figure = Figure(figsize=(5.2, 3.8), layout="constrained")
            draw(figure.subplots(), content)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            plots[name] = _data_uri("image/svg+xml", buffer.getvalue())
    return plots


def _draw_recall(axes: Axes, content: dict[str, Any]) -> None:
    ks = _ks(content)
    for i, stage in enumerate(content["stages"]):
        recall = [100 * stage["recall"][k] for k in ks]
        axes.plot([int(k) for k in ks], recall, label=stage["stage"], **_look(i), linestyle="-" if i == 0 else "--")
    axes.set(xlabel="K, neighbours looked at", ylabel="Recall@K, %", title="Recall@K", xticks=[int(k) for k in ks])
    axes.legend(frameon=False)


def _draw_ndcg(axes: Axes, content: dict[str, Any]) -> None:
    _draw_by_labels(axes, content, "ndcg", 100)
    axes.set(ylabel="nDCG@K, %", title="nDCG@K, higher is better")


def _draw_label_distance(axes: Axes, content: dict[str, Any]) -> None:
    _draw_by_labels(axes, content, "mean_label_distance", 1)
    axes.set(ylabel="mean label distance", title="Label distance of the K nearest, lower is better")


def _draw_by_labels(axes: Axes, content: dict[str, Any], measure: str, scale: float) -> None:
    """Draw a measure over K, between what a random order and the best have."""
    ks = sorted(content["stages"][0][measure], key=int)
    places = [int(k) for k in ks]
    for i, stage in enumerate(content["stages"]):
        values = [scale * stage[measure][k] for k in ks]
        axes.plot(places, values, label=stage["stage"], **_look(i), linestyle="-" if i == 0 else "--")
    for name, order in (("a random order", "random_order"), ("the best order", "best_order")):
        values = [scale * content["data"][order][measure][k] for k in ks]
        axes.plot(places, values, label=name, color="#888888", linestyle=":" if order == "random_order" else "-.")
    axes.set(xlabel="K, neighbours looked at", xticks=places)
    axes.legend(frameon=False)


def _draw_size(axes: Axes, content: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    sizes = []
    for i, stage in enumerate(content["stages"]):
        if stage in _models(content) and stage["bytes"]:
            sizes.append(stage["bytes"] / 1e6)
            axes.plot(sizes[-1:], [100 * _score(stage)], label=stage["stage"], **_look(i), linestyle="none")
    measure = retained(content)
    axes.set(xlabel="size of the weights, MB (log scale)", ylabel=f"{measure}, %", title=f"{measure} and size")
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.7, max(sizes) * 1.7)  # wide enough for one tick at least
    low, high = axes.get_ylim()
    room = max(0.0, 5 - (high - low)) / 2  # points; else the smallest difference would look like a cliff
    axes.set_ylim(low - room, high + room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)


def _look(index: int) -> dict[str, Any]:
    """Return colour and marker of a stage; hollow and of falling size, so that equal points are all seen."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markerfacecolor": "none",
        "markeredgewidth": 1.6,
        "markersize": max(10 - 1.5 * index, 5),
    }


def _sized(content: dict[str, Any]) -> bool:
    return any(stage["bytes"] for stage in content["stages"])


def _headline(teacher: dict[str, Any], model: dict[str, Any], measure: str) -> str:
    """Return one sentence: what the model keeps, and what it saves as far as that is known."""
    low, high = model["retention_interval"]
    sentence = (
        f"{model['stage']} keeps {_percent(model['retention'], 1)}\u00a0% of the teacher's {measure} "
        f"[{_percent(low, 1)},\u00a0{_percent(high, 1)}]"
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
    below = [stage for stage in content["stages"][1:] if stage["retention"] < asked]
    kept = ", ".join(f"{stage['stage']} keeps {_percent(stage['retention'])}\u00a0%" for stage in below)
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
            self._uris[index] = _data_uri("image/jpeg", buffer.getvalue())
        return Picture(self._uris[index], self.images.ids[index], caption, right)


def _labels(images: ImageSet) -> np.ndarray:
    if images.labels is None:
        from zoo.errors import DataError

        raise DataError("A report cannot be made on images without labels. Give a labelled set.")
    return images.labels


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _ks(content: dict[str, Any]) -> list[str]:
    return sorted(content["stages"][0].get("recall", {}), key=int)


def _percent(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{100 * value:.{digits}f}"


def _points(difference: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    text = f"{100 * difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def _decimals(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _significant(value: float) -> str:
    """Return a label distance, whose unit is that of the labels, in four digits."""
    return f"{value:.4g}"


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _megabytes(value: int | None) -> str:
    return DASH if value is None else f"{value / 1e6:.{2 if value >= 100_000 else 4}f}"


def readable(value: Any) -> str:
    """Return a value of the protocol in words: "images 40, classes 8" for a dictionary."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {readable(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(readable, value)) or DASH
    if isinstance(value, float):
        return f"{value:g}"
    return DASH if value is None or value == "" else str(value)
