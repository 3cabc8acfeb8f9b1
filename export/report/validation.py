"""Proof that a small model still retrieves: :func:`validate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.arguments import DataLike, TeacherLike, require_neighbours, require_valid
from zoo.errors import OptionError, require_known
from zoo.files import require_writable

log = logging.getLogger(__name__)

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Report:
    """The result of a validation.

    Attributes:
        folder: where ``report.json`` and ``report.html`` lie.
        content: what ``report.json`` holds.
        passed: whether every stage keeps the retention asked for; True where none was asked for.
    """

    folder: Path
    content: dict[str, Any]
    passed: bool


def validate(
    models: Sequence[str | Path],
    teacher: TeacherLike,
    data: DataLike,
    out: str | Path,
    *,
    split: str = "auto",
    validation: float = 0.2,
    continuous_labels: str | Path | None = None,
    label_metric: str = "euclidean",
    max_unreadable: int = 10,
    min_retention: float | None = None,
    ks: Sequence[int] = (1, 2, 4, 8, 10),
    bootstrap: int = 2000,
    latency_runs: int = 50,
    index: Sequence[str] | str = (),
    query_encoder: str | Path | None = None,
    gallery_encoder: str | Path | None = None,
    seed: int = 0,
) -> Report:
    """Compare models with their teacher on classes never seen in training, and write a report.

    Retrieval is exact; retention is a model's Recall@1 over the teacher's on the same queries, with a paired bootstrap
    interval of 95 %. Where images have continuous labels, nDCG@K and the mean label distance of the nearest K are
    measured too; where they have no classes, retention is of nDCG@10. Latency is of one image, raw pixels in and vector
    out, all models in turn.

    Models are measured by exact search. The report can also have the last of them searched through indexes, and a
    mixed pair, in which one model embeds the queries and another the gallery.

    Args:
        models: model folders and .onnx files to validate.
        teacher: what they are compared with: a model folder, an .onnx or .npz file; in Python also a torch module.
        data: images to measure on, such as glyphs, folder:PATH or csv:FILE; its test part is used.
        out: folder for report.json and report.html.
        split: how classes are divided, as in training: auto, given, first-half, even-odd or list:FILE; or all-test.
        validation: as in training; it does not change the test part.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image; see docs/data.md.
        label_metric: how vectors in that file are compared: euclidean or cosine.
        max_unreadable: how many unreadable images are reported and left out before the run stops.
        min_retention: the gate: smallest share of the teacher's Recall@1, or nDCG@10 where there are no classes, that
            every model, index and pair must keep; null for none.
        ks: the K of Recall@K; must include 1.
        bootstrap: resamples of the queries for the interval.
        latency_runs: timed runs of each model and index; 0 to leave latency out.
        index: kinds of index to measure the last model with, such as sq8,binary; see docs/indexes.md.
        query_encoder: the model that embeds the queries of a mixed pair, such as the int8 file of a phone; it is
            measured alone too.
        gallery_encoder: the model that embeds the gallery of the pair, such as the fp32 file of a server.
        seed: of the bootstrap, and of the indexes.

    Returns:
        The report. The gate is in ``passed``; nothing is raised when it fails.

    Raises:
        UserError: models, teacher, data or options that cannot work.
    """
    require_valid(
        {"bootstrap": bootstrap, "latency_runs": latency_runs, "seed": seed, "max_unreadable": max_unreadable}
        | {"min_retention": min_retention, "validation": validation}
    )
    kinds = require_report_options(ks, min_retention, index)
    models = [models] if isinstance(models, str | Path) else list(models)
    pair = [Path(encoder) for encoder in (query_encoder, gallery_encoder) if encoder is not None]
    if len(pair) == 1:
        raise OptionError(
            f"Only one encoder of a mixed pair is given, {pair[0]}. Give query_encoder and gallery_encoder."
        )
    if not models and not pair:
        raise OptionError("No model to validate. Name at least one model folder or .onnx file.")
    require_writable(out)

    from export.report.content import retained
    from export.report.measured_models import latencies, open_models, seen_in_training
    from export.report.page import render_html
    from export.report.searches import Search, all_searches, finding, require_possible, step
    from zoo.data import load_data
    from zoo.files import write_json, write_text
    from zoo.retrieval.bootstrap import at_least, retention_interval
    from zoo.retrieval.label_measures import NDCG_K, LabelRetrievalResult, measure_found_by_labels, random_and_best
    from zoo.retrieval.measures import RetrievalResult, measure_found, neighbour_overlap
    from zoo.retrieval.protocol import require_test_images
    from zoo.teachers.opening import open_teacher
    from zoo.versions import machine, versions

    splits = load_data(data, split, validation, continuous_labels, label_metric)
    require_test_images(splits, split)
    reference = open_teacher(teacher)
    given = [Path(model) for model in models]
    places = [path.resolve() for path in given]
    added = {path.resolve(): path for path in pair if path.resolve() not in places}
    opened = open_models(reference, teacher, [*added.values(), *given])  # the last one given is the one that ships
    places = [*added, *places]
    mixed = [opened[1 + places.index(path.resolve())] for path in pair]
    require_possible(mixed, kinds, opened[-1], splits.test)
    warnings = [warning for model in opened if (warning := seen_in_training(model, splits))]
    for warning in warnings:
        log.warning(warning)
    images = splits.test.checked(max_unreadable)
    by_class: dict[str, RetrievalResult] = {}
    by_labels: dict[str, LabelRetrievalResult] = {}
    searches: list[Search] = []
    for search in all_searches(opened, mixed, kinds, images, k=max(ks), runs=latency_runs, seed=seed):
        if images.continuous is not None:
            by_labels[search.stage] = measure_found_by_labels(search.find, images)
        if images.labels is not None or not by_labels:
            by_class[search.stage] = measure_found(search.find, images, ks)
        searches.append(search)
    times = latencies(opened, images, latency_runs)
    # What retention compares, query by query.
    kept = {stage: result.recall[1] for stage, result in by_class.items()} or {
        stage: result.ndcg(NDCG_K) for stage, result in by_labels.items()
    }
    results: Mapping[str, RetrievalResult | LabelRetrievalResult] = by_class or by_labels
    stages: list[dict[str, Any]] = []
    for search in searches:
        stage, model = search.stage, search.model
        low, high = retention_interval(kept[stage], kept["teacher"], bootstrap, seed)
        stages.append(
            {
                "stage": stage,
                "source": model.source,
                **(by_class[stage].summary() if by_class else {}),
                **(by_labels[stage].summary() if by_labels else {}),
                "retention": _ratio(float(kept[stage].mean()), float(kept["teacher"].mean())),
                "retention_interval": [low, high],
                "step": step(search, stages, kept, bootstrap, seed),
                "neighbour_overlap": neighbour_overlap(results[stage].neighbours, results["teacher"].neighbours),
                "metric": model.metric,
                "dim": search.dim,
                "parameters": model.parameters,
                "bytes": model.bytes,
                "runtime": model.runtime,
                "latency_ms": next(iter(times[model.stage]), None),
                "latency_ms_by_threads": times[model.stage],
                **search.more,
            }
        )
    passed = min_retention is None or all(at_least(stage["retention"], min_retention) for stage in stages[1:])
    orders = random_and_best(by_labels["teacher"], images, seed) if by_labels else {}
    baseline = results["teacher"]
    content = {
        "schema": SCHEMA,
        "data": {
            "name": splits.name,
            **splits.protocol,
            "queries": len(baseline.queries),
            "gallery": baseline.gallery_size,
            "left_out": baseline.left_out,
            "unreadable": len(splits.test) - len(images),
            "chance": by_class["teacher"].chance if by_class else orders["random_order"]["ndcg"][str(NDCG_K)],
            **orders,
        },
        "gate": {"min_retention": min_retention, "passed": passed},
        "warnings": warnings,
        "stages": stages,
        "bootstrap": {"resamples": bootstrap, "confidence": 0.95, "seed": seed},
        "machine": machine(),
        "versions": versions(),
    }
    for row in stages:
        if "pair" in row:
            row["pair"] |= finding(row["stage"], row["pair"], kept, retained(content), bootstrap, seed)
    out = Path(out)
    write_text(out / "report.html", render_html(content, by_class, images, by_labels))
    write_json(out / "report.json", content)
    return Report(out, content, passed)


def require_report_options(ks: Sequence[int], min_retention: float | None, index: Sequence[str] | str) -> list[str]:
    """Return the kinds of index asked for, each once.

    Raises:
        OptionError: K below 1 or without 1, a gate that none can pass or fail, or an unknown kind of index.
    """
    from export.index.vector_index import OPTIONS

    require_neighbours(ks)
    if min_retention is not None and not min_retention > 0:
        raise OptionError(f"min_retention is {min_retention}; it must be above 0, such as 0.95.")
    named = [index] if isinstance(index, str) else index
    kinds = list(dict.fromkeys(kind.strip() for words in named for kind in words.split(",") if kind.strip()))
    for kind in kinds:
        require_known("kind of index", kind, OPTIONS)
    return kinds


def _ratio(recall: float, reference: float) -> float:
    return recall / reference if reference > 0 else 0.0
