"""The report of a validation as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from export.report.content import gate_of, indexes_of, ks_of, label_of, models_of, retained, score_of, teacher_of
from export.report.examples import class_comparison, label_comparison
from export.report.formats import DASH, count, decimals, megabytes, percent, points, readable, significant
from export.report.plots import plots_of
from export.report.verdict import MEASURES

if TYPE_CHECKING:
    from zoo.data import ImageSet
    from zoo.retrieval.label_measures import LabelRetrievalResult
    from zoo.retrieval.measures import RetrievalResult


def render_html(
    content: dict[str, Any],
    results: Mapping[str, RetrievalResult],
    images: ImageSet,
    by_labels: Mapping[str, LabelRetrievalResult] | None = None,
) -> str:
    """Return the report as one HTML page that needs no other file, no network and no script.

    Args:
        content: content of ``report.json``; see :func:`export.report.validation.validate`.
        results: measures of each query, by stage. The teacher, if any, is compared with the last model of ``content``.
            Empty if the images have no classes.
        images: the labelled images that were measured on.
        by_labels: the same by continuous labels; needed without classes.

    Raises:
        DataError: an image to show cannot be read, or the images have no labels.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    stages = content["stages"]
    models = models_of(content)
    last, teacher = models[-1], teacher_of(content)
    compared: dict[str, Any] = {}
    if teacher is None and (results or by_labels):
        pass
    elif results:
        compared = class_comparison(results["teacher"], results[last["stage"]], images, last["stage"])
    elif by_labels:
        compared = label_comparison(by_labels["teacher"], by_labels[last["stage"]], images, last["stage"])
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
        "label": label_of,
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
        teacher=teacher,
        steps=[stage for stage in models if stage.get("step")],
        headline=_headline(teacher, last, retained(content)),
        gate=gate_of(content),
        verdict=content["verdict"],
        untrained=_beside_no_training(content),
        threads=sorted({entry["threads"] for stage in stages for entry in stage["latency_ms_by_threads"]}),
        plots=plots_of(content),
        **compared,
        images=len(images),
        class_count=None if images.labels is None else len(np.unique(images.labels)),
        dash=DASH,
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which UTF-8 cannot encode.
    return html.encode("utf-8", "replace").decode("utf-8")


def _headline(teacher: dict[str, Any] | None, model: dict[str, Any], measure: str) -> str:
    """Return one sentence on the model's retention and, as far as known, its savings."""
    if teacher is None:
        return f"{model['stage']} reaches {percent(score_of(model), 1)}\u00a0% {measure}, measured without a teacher."
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
    """Return ``less`` or ``more`` with the ratio filled in; None if a value is unknown or both are about equal."""
    if not before or not after:
        return None
    ratio = max(before / after, after / before)
    number = f"{ratio:.1f}".removesuffix(".0") if ratio < 10 else f"{ratio:.0f}"
    return None if number == "1" else (less if before > after else more).format(number)


def _beside_no_training(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per comparison with a baseline: both names, and the gains by name of the measure."""
    verdict = content["verdict"]
    if verdict is None:
        return []
    return [
        {"stage": entry["stage"], "baseline": entry["baseline"]}
        | {"gains": {name: entry[key] for key, name in MEASURES.items() if key in entry}}
        for entry in verdict["comparisons"]
    ]
