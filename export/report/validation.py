"""Measure models against their teacher on unseen classes: :func:`validate`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from export.report.content import Report
from zoo.arguments import DataLike, TeacherLike, require_neighbours, require_valid
from zoo.errors import OptionError, require_known
from zoo.files import require_writable
from zoo.paths import given_path
from zoo.training.options import DataOptions, documented

log = logging.getLogger(__name__)

SCHEMA = 1
EMBEDDINGS = "embeddings"  # a folder next to the report


@documented
def validate(
    models: Sequence[TeacherLike],
    teacher: TeacherLike | None,
    data: DataLike,
    out: str | Path,
    *,
    split: str = DataOptions.split,
    validation: float = DataOptions.validation,
    continuous_labels: str | Path | None = DataOptions.continuous_labels,
    label_metric: str = DataOptions.label_metric,
    columns: dict[str, str] | None = DataOptions.columns,
    max_unreadable: int = DataOptions.max_unreadable,
    min_retention: float | None = None,
    min_gain: float | None = None,
    gain_by: str = "mean",
    baselines: bool = True,
    ks: Sequence[int] = (1, 2, 4, 8, 10),
    bootstrap: int = 2000,
    latency_runs: int = 50,
    index: Sequence[str] | str = (),
    query_encoder: str | Path | None = None,
    gallery_encoder: str | Path | None = None,
    reuse: bool = True,
    seed: int = 0,
) -> Report:
    """Compare models with their teacher, or by labels alone, on classes never seen in training; write a report.

    Search is exact. Retention is a model's Recall@1 divided by the teacher's on the same queries, with a paired
    bootstrap interval of 95 %. With continuous labels, nDCG@K and the mean label distance of the K nearest are measured
    too; without classes, retention is of nDCG@10. Latency is of one image, from pixels to vector, all models in turns.

    Baselines that need no training are measured as well, and the report starts with how the last model compares with
    them: the teacher's embeddings reduced by PCA to as many dimensions and, for model folders that started from
    pretrained weights, the networks of student and teacher before training, the student's reduced by PCA too.

    On request, the report also searches through indexes of the last model, and measures a mixed pair, in which one
    model embeds the queries and another the gallery.

    Args:
        models: model folders and .onnx files to validate; the last one is the one that ships. Any teacher can be listed
            for comparison: an off-the-shelf model by name, an ONNX file that export did not make, or ready embeddings;
            no gate applies to these.
        teacher: what they are compared with: a model folder, an .onnx or .npz file, or a name such as hf:NAME, see
            docs/how-to/own-teacher.md; in Python also a torch module. null to measure by labels alone.
        data: images, such as glyphs, folder:PATH or csv:FILE; the test part is used.
        out: folder for report.json and report.html.
        split: rule that divides the classes, as in training: auto, given, first-half, even-odd or list:FILE; or
            all-test.
        validation: as in training; it does not change the test part.
        min_retention: gate: smallest share of the teacher's Recall@1 (nDCG@10 without classes) that every model, index
            and pair must keep; null for none. It also fails if the teacher is no better than chance.
        min_gain: second gate: smallest gain of every model over its own network before training, reduced by PCA to its
            dimensions, in Recall@1 and in MAP@R (nDCG@10 without classes): 0 for at least as good, 0.01 for a point
            better; null for none. It also fails if there is no such baseline.
        gain_by: what must reach min_gain: mean, or interval for the lower end of the gain's 95 % interval.
        baselines: also measure what needs no training; false to leave it out.
        ks: the K of Recall@K; must include 1.
        bootstrap: resamples of the queries for the intervals.
        latency_runs: timed runs per model and index; 0 for none.
        index: kinds of index to search with the last model, such as sq8,binary; see docs/how-to/search.md.
        query_encoder: model that embeds the queries of a mixed pair, such as the int8 file of a phone; also measured
            alone.
        gallery_encoder: model that embeds the gallery of the pair, such as the fp32 file of a server.
        reuse: keep the embeddings in a folder in out, and read those of the same models and images from it.
        seed: seed for the bootstrap and the indexes.

    Returns:
        The report. The gates are in ``passed``; nothing is raised when one fails.

    Raises:
        UserError: a model, the teacher, the data or an option is unusable.
    """
    require_valid(
        {"bootstrap": bootstrap, "latency_runs": latency_runs, "seed": seed, "max_unreadable": max_unreadable}
        | {"min_retention": min_retention, "validation": validation}
    )
    kinds = require_report_options(ks, min_retention, index, min_gain, gain_by, baselines)
    models = list(models) if isinstance(models, list | tuple) else [cast(TeacherLike, models)]
    if teacher is None and min_retention is not None:
        raise OptionError("min_retention compares with a teacher, and teacher is null. Leave one of them out.")
    pair = [given_path(encoder) for encoder in (query_encoder, gallery_encoder) if encoder is not None]
    if len(pair) == 1:
        raise OptionError(
            f"Only one encoder of a mixed pair is given, {pair[0]}. Give query_encoder and gallery_encoder."
        )
    if not models and not pair:
        raise OptionError("No model to validate. Name at least one model folder or .onnx file.")
    require_writable(out)

    from export.embedding.cache import EmbeddingCache
    from export.report.baselines import Baselines, make_baselines
    from export.report.content import retained
    from export.report.measured_models import (
        latencies,
        open_models,
        other_teacher,
        place_of,
        seen_images,
        seen_in_training,
    )
    from export.report.page import render_html
    from export.report.searches import Search, all_searches, finding, require_possible, step
    from export.report.verdict import gate, implausible, judge
    from zoo.data import load_data
    from zoo.files import write_json, write_text
    from zoo.models.facts import names_only, told_apart
    from zoo.retrieval.bootstrap import retention_interval
    from zoo.retrieval.label_measures import NDCG_K, LabelRetrievalResult, measure_found_by_labels, random_and_best
    from zoo.retrieval.measures import RetrievalResult, measure_found, neighbour_overlap
    from zoo.retrieval.protocol import require_test_images
    from zoo.teachers.opening import open_teacher
    from zoo.teachers.proof import doubts, proof_by_class, proof_by_labels
    from zoo.versions import machine, versions

    splits = load_data(data, split, validation, continuous_labels, label_metric, columns)
    require_test_images(splits, split)
    reference = None if teacher is None else open_teacher(teacher)
    given = [place_of(model) for model in models]
    added = {place_of(path): path for path in pair if place_of(path) not in given}
    out = given_path(out)
    cache = EmbeddingCache(out / EMBEDDINGS if reuse else None)
    opened = open_models(reference, teacher, [*added.values(), *models], cache)
    small = opened if reference is None else opened[1:]
    places = [*added, *given]
    mixed = [small[places.index(place_of(path))] for path in pair]
    small = sorted(small, key=lambda model: not model.foreign)  # the last model made by this project is what ships
    opened = [*opened[: len(opened) - len(small)], *small]
    require_possible(mixed, kinds, opened[-1], splits.test)
    warnings = [warning for model in opened if (warning := seen_in_training(model, splits))]
    noted = [f"{model.stage}: {note}" for model in small for note in model.notes]  # logged when it was opened
    if reference is not None:
        warnings += [warning for model in small if (warning := other_teacher(model, reference))]
        noted = [f"teacher {reference.name}: {note}" for note in reference.notes] + noted
    noted += filter(None, [seen_images(splits)])  # logged when the data were divided
    images = splits.test.checked(max_unreadable)
    by_class: dict[str, RetrievalResult] = {}
    by_labels: dict[str, LabelRetrievalResult] = {}
    searches: list[Search] = []

    def measure_all(found: Iterable[Search]) -> None:
        for search in found:
            if images.continuous is not None:
                by_labels[search.stage] = measure_found_by_labels(search.find, images)
            if images.labels is not None or not by_labels:
                by_class[search.stage] = measure_found(search.find, images, ks)
            searches.append(search)

    measure_all(all_searches(opened, mixed, kinds, images, k=max(ks), runs=latency_runs, seed=seed))
    results: Mapping[str, RetrievalResult | LabelRetrievalResult] = by_class or by_labels
    fault = ""
    if reference is not None:
        proof = (
            proof_by_class(by_class["teacher"], images) if by_class else proof_by_labels(by_labels["teacher"], images)
        )
        if proof.fault:
            fault = f"The teacher ({reference.name}) is {proof.fault}, so retention says nothing"
            warnings.append(f"{fault}. Check that its weights are loaded and its preprocessing is right.")
        warnings += [f"{doubt[:1].upper()}{doubt[1:]}" for doubt in doubts(proof, reference.name, images)]
    times = latencies(opened, images, latency_runs)
    untrained = Baselines()
    if baselines:
        ours = [model for model in small if not model.foreign]
        first = None if reference is None else searches[0]
        untrained = make_baselines(
            ours, first, reference, splits, images, cache, max_unreadable=max_unreadable, seed=seed
        )
        measure_all(untrained.searches)
        trained = [search for search in searches if "baseline" not in search.more]
        count = 0 if reference is None else 1
        searches = [*trained[:count], *untrained.searches, *trained[count:]]
        warnings += untrained.warnings
    # The scores that retention compares, query by query.
    kept = {stage: result.recall[1] for stage, result in by_class.items()} or {
        stage: result.ndcg(NDCG_K) for stage, result in by_labels.items()
    }
    stages: list[dict[str, Any]] = []
    names = told_apart([search.model.source for search in searches])
    for search in searches:
        stage, model = search.stage, search.model
        of_teacher: dict[str, Any] = dict.fromkeys(("retention", "retention_interval", "neighbour_overlap"))
        if reference is not None:
            share = _ratio(float(kept[stage].mean()), float(kept["teacher"].mean()))
            interval = retention_interval(kept[stage], kept["teacher"], bootstrap, seed)
            overlap = neighbour_overlap(results[stage].neighbours, results["teacher"].neighbours)
            of_teacher = {"retention": share, "retention_interval": list(interval), "neighbour_overlap": overlap}
        timed = times.get(model.stage, [])  # baselines are not timed
        stages.append(
            {
                "stage": stage,
                "source": names[model.source],
                **(by_class[stage].summary() if by_class else {}),
                **(by_labels[stage].summary() if by_labels else {}),
                **of_teacher,
                "step": step(search, stages, kept, bootstrap, seed),
                "metric": model.metric,
                "dim": search.dim,
                "architecture": model.architecture,
                "parameters": model.parameters,
                "bytes": model.bytes,
                "runtime": model.runtime,
                "latency_ms": next(iter(timed), None),
                "latency_ms_by_threads": timed,
                **search.more,
            }
        )
    stage = opened[0].stage  # the fields below are the same for all stages
    orders = random_and_best(by_labels[stage], images, seed) if by_labels else {}
    measured = results[stage]
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "data": {
            "name": names_only(splits.name),
            **splits.protocol,
            "queries": len(measured.queries),
            "gallery": measured.gallery_size,
            "left_out": measured.left_out,
            "unreadable": len(splits.test) - len(images),
            "chance": by_class[stage].chance if by_class else orders["random_order"]["ndcg"][str(NDCG_K)],
            **orders,
        },
        "verdict": None,
        "gate": {},
        "warnings": warnings,
        "stages": stages,
        "bootstrap": {"resamples": bootstrap, "confidence": 0.95, "seed": seed},
        "machine": machine(),
        "versions": versions(),
    }
    if baselines:
        scores = {"recall_at_1": kept, "map_at_r": {name: each.average_precision for name, each in by_class.items()}}
        content["verdict"] = judge(
            content, scores if by_class else {"ndcg_at_10": kept}, untrained.notes, bootstrap, seed
        )
    content["gate"] = gate(
        content,
        content["verdict"],
        untrained.missing,
        fault,
        min_retention=min_retention,
        min_gain=min_gain,
        gain_by=gain_by,
    )
    if not fault:
        warnings += [f"{doubt}." for doubt in implausible(content)]
    for warning in warnings:
        log.warning(warning)
    warnings += noted
    sources = {row["stage"]: row["source"] for row in stages}
    for row in stages:
        if "pair" in row:
            row["source"] = " → ".join(sources[row["pair"][side]] for side in ("query", "gallery"))
            row["pair"] |= finding(row["stage"], row["pair"], kept, retained(content), bootstrap, seed)
    cache.tidy()
    write_text(out / "report.html", render_html(content, by_class, images, by_labels))
    write_json(out / "report.json", content)
    return Report(out, content, content["gate"]["passed"])


def require_report_options(
    ks: Sequence[int],
    min_retention: float | None,
    index: Sequence[str] | str,
    min_gain: float | None = None,
    gain_by: str = "mean",
    baselines: bool = True,
) -> list[str]:
    """Return the kinds of index asked for, without repetition.

    Raises:
        OptionError: a K is below 1 or 1 is not among them, a gate could never pass or fail, or a kind of index is
            unknown.
    """
    from export.index.vector_index import OPTIONS

    require_neighbours(ks)
    if min_retention is not None and not min_retention > 0:
        raise OptionError(f"min_retention is {min_retention}; it must be above 0, such as 0.95.")
    if min_gain is not None and not -1 <= min_gain <= 1:
        raise OptionError(f"min_gain is {min_gain}; it must lie in [-1, 1], such as 0.01 for one point above.")
    if min_gain is not None and not baselines:
        raise OptionError("min_gain compares with a baseline, and baselines is false. Leave one of them out.")
    require_known("gain_by", gain_by, ("mean", "interval"))
    named = [index] if isinstance(index, str) else index
    kinds = list(dict.fromkeys(kind.strip() for words in named for kind in words.split(",") if kind.strip()))
    for kind in kinds:
        require_known("kind of index", kind, OPTIONS)
    return kinds


def _ratio(recall: float, reference: float) -> float:
    return recall / reference if reference > 0 else 0.0
