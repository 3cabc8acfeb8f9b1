"""The plots of a report, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from export.report.content import ks_of, label_of, retained, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten colours and nine markers: up to 90 rows have unique combinations.
_COLOURS = (
    *("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#a6761d", "#6a3d9a", "#b2182b", "#17a2b8", "#7f8c1f"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LEGEND_LINE = 0.19  # inches
# Paths instead of fonts, and a fixed salt: the same content gives the same bytes, and looks the same everywhere.
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


def plots_of(content: dict[str, Any]) -> dict[str, str]:
    """Return each plot as a ``data:`` URI, by name."""
    import matplotlib
    from matplotlib.figure import Figure

    plots = {}
    with matplotlib.rc_context(_STYLE):
        for name, draw in _drawn(content).items():
            figure = Figure(figsize=(5.2, 3.8), layout="constrained")
            axes = figure.subplots()
            draw(axes, content)
            handles, names = axes.get_legend_handles_labels()
            figure.set_figheight(3.6 + _LEGEND_LINE * len(names))  # room for the legend below the plot
            figure.legend(handles, names, frameon=False, loc="outside lower left", fontsize="small")
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            plots[name] = data_uri("image/svg+xml", buffer.getvalue())
    return plots


def _drawn(content: dict[str, Any]) -> dict[str, Callable[[Axes, dict[str, Any]], None]]:
    """Return the drawing function of each plot that the content has numbers for, by name."""
    measured = content["stages"][0]
    plots: dict[str, Callable[[Axes, dict[str, Any]], None]] = {}
    if "recall" in measured:
        plots["recall"] = _draw_recall
    if "ndcg" in measured:
        plots |= {"ndcg": _draw_ndcg, "label_distance": _draw_label_distance}
    if _sized(content):
        plots["size"] = _draw_size
    return plots


def _draw_recall(axes: Axes, content: dict[str, Any]) -> None:
    ks = ks_of(content)
    for i, stage in enumerate(content["stages"]):
        recall = [100 * stage["recall"][k] for k in ks]
        axes.plot([int(k) for k in ks], recall, label=label_of(stage), **_look(i), linestyle=_line(i, stage))
    axes.set(xlabel="K, neighbours looked at", ylabel="Recall@K, %", title="Recall@K", xticks=[int(k) for k in ks])


def _draw_ndcg(axes: Axes, content: dict[str, Any]) -> None:
    _draw_by_labels(axes, content, "ndcg", 100)
    axes.set(ylabel="nDCG@K, %", title="nDCG@K, higher is better")


def _draw_label_distance(axes: Axes, content: dict[str, Any]) -> None:
    _draw_by_labels(axes, content, "mean_label_distance", 1)
    axes.set(ylabel="mean label distance", title="Label distance of the K nearest, lower is better")


def _draw_by_labels(axes: Axes, content: dict[str, Any], measure: str, scale: float) -> None:
    """Draw a measure over K, with the values of a random and of the best order."""
    ks = sorted(content["stages"][0][measure], key=int)
    places = [int(k) for k in ks]
    for i, stage in enumerate(content["stages"]):
        values = [scale * stage[measure][k] for k in ks]
        axes.plot(places, values, label=label_of(stage), **_look(i), linestyle=_line(i, stage))
    for name, order in (("a random order", "random_order"), ("the best order", "best_order")):
        values = [scale * content["data"][order][measure][k] for k in ks]
        axes.plot(places, values, label=name, color="#888888", linestyle=":" if order == "random_order" else "-.")
    axes.set(xlabel="K, neighbours looked at", xticks=places)


def _draw_size(axes: Axes, content: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    sizes = []
    for i, stage in enumerate(content["stages"]):
        if not {"index", "pair"} & stage.keys() and stage["bytes"]:
            sizes.append(stage["bytes"] / 1e6)
            axes.plot(sizes[-1:], [100 * score_of(stage)], label=label_of(stage), **_look(i), linestyle="none")
    measure = retained(content)
    axes.set(xlabel="size of the weights, MB (log scale)", ylabel=f"{measure}, %", title=f"{measure} and size")
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.7, max(sizes) * 1.7)  # wide enough for at least one tick
    low, high = axes.get_ylim()
    height = max(5.0, high - low)  # points; otherwise tiny differences would look large
    top = min((low + high + height) / 2, 100.5)  # the marker of 100 % stays whole
    axes.set_ylim(top - height, top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _look(index: int) -> dict[str, Any]:
    """Return colour and marker of a stage; markers are hollow and shrink, so that equal points stay visible."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markerfacecolor": "none",
        "markeredgewidth": 1.6,
        "markersize": max(10 - 1.5 * index, 5),
    }


def _line(index: int, stage: dict[str, Any]) -> str:
    """Return the style of a stage's line: solid for the teacher, dotted for baselines."""
    return ":" if "baseline" in stage else "-" if index == 0 else "--"


def _sized(content: dict[str, Any]) -> bool:
    return any(stage["bytes"] for stage in content["stages"])


def data_uri(kind: str, data: bytes) -> str:
    """Return data as a ``data:`` URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
