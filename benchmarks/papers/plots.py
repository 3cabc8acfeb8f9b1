"""Bar charts with error bars for the tables that compare methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from zoo.files import replacing


def draw_bars(panels: Mapping[str, Mapping[str, Sequence[float]]], measure: str, path: Path) -> None:
    """Draw panels with one bar per method: the mean over seeds, with the standard deviation as error bar.

    Args:
        panels: one value per seed, by title of the panel and by method.
        measure: name of the measure, for the axis.
        path: the ``.png`` file.
    """
    from matplotlib.figure import Figure

    height = sum(0.32 * len(methods) + 0.9 for methods in panels.values())
    figure = Figure(figsize=(7.0, height), layout="constrained")
    rows = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [len(methods) + 1 for methods in panels.values()]}
    )
    for axes, (title, methods) in zip(rows[:, 0], panels.items(), strict=True):
        means = [fmean(values) for values in methods.values()]
        errors = [stdev(values) if len(values) > 1 else 0.0 for values in methods.values()]
        axes.barh(list(methods), means, xerr=errors, color="#4c78a8", ecolor="#333333", capsize=3)
        shown = [mean - error for mean, error in zip(means, errors, strict=True)]
        axes.set_xlim(left=max(0.0, min(shown) - 0.3 * (max(means) - min(shown)) - 1))  # differences are small
        axes.invert_yaxis()
        axes.set(title=title, xlabel=f"{measure} (the axis does not begin at 0)")
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
