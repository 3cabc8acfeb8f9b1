"""The searches that a report measures: with each model, with a mixed pair of models, and through indexes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from export.index.vector_index import VectorIndex, make_index, milliseconds_per_query, parameters_for
from export.report.measured_models import MeasuredModel
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError
from zoo.retrieval.bootstrap import drop_interval, retention_interval
from zoo.retrieval.nearest import comparable
from zoo.retrieval.protocol import Find, exact, queries_and_gallery

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Search:
    """One row of a report.

    Attributes:
        stage: its name.
        model: the model that embeds the queries; the row shows its size and latency.
        dim: dimensions of the vectors.
        find: the search.
        more: additional fields of this row in ``report.json``.
        vectors: vectors of the images, float32 ``(N, D)``; kept only for the first model.
    """

    stage: str
    model: MeasuredModel
    dim: int
    find: Find
    more: dict[str, Any] = field(default_factory=dict)
    vectors: np.ndarray | None = None


def require_possible(
    pair: Sequence[MeasuredModel], kinds: Sequence[str], last: MeasuredModel, images: ImageSet
) -> None:
    """Refuse, before any work, a pair whose vectors cannot be compared and indexes that cannot be built.

    Args:
        pair: the models that embed queries and gallery, or empty.
        kinds: kinds of index.
        last: the model whose vectors the indexes hold.
        images: the images, with their roles.

    Raises:
        ModelError: the two models differ in dimensions or metric.
        OptionError: unknown kind, or the gallery is too small for it.
    """
    for kind in kinds:
        parameters_for(kind, None, len(queries_and_gallery(images)[1]), last.dim or 1)
    if not pair:
        return
    query, gallery = pair
    for what, one, other in (("dim", query.dim, gallery.dim), ("metric", query.metric, gallery.metric)):
        if one != other:
            raise ModelError(
                f"query_encoder {query.source} has {what} {one}, but gallery_encoder {gallery.source} has {other}. "
                "Their vectors cannot be compared; give two files of one student."
            )


def all_searches(
    models: Sequence[MeasuredModel],
    pair: Sequence[MeasuredModel],
    kinds: Sequence[str],
    images: ImageSet,
    *,
    k: int,
    runs: int,
    seed: int,
) -> Iterator[Search]:
    """Yield exact search with each model, then with the pair, then with the last model through each index.

    Args:
        models: the models; each embeds the images once.
        pair: those of them that embed queries and gallery, or empty.
        kinds: kinds of index; their parameters are chosen for this gallery.
        images: the images.
        k: neighbours in a timed search. ``binary`` examines as many candidates as for these, however many neighbours
            the measures need.
        runs: timed searches through each index; 0 for none.
        seed: seed of the indexes.
    """
    embeddings: dict[str, np.ndarray] = {}
    for model in models:
        log.info("measuring %s (%s)", model.stage, model.source)
        vectors = images.require_finite(model.embed(images), model.source)
        if model in (*pair, models[-1]):
            embeddings[model.stage] = vectors
        search = exact_search(model, vectors, images, {"foreign": True} if model.foreign else None)
        yield replace(search, vectors=vectors) if model is models[0] else search
    if pair:
        yield _mixed(pair[0], pair[1], embeddings, images)
    for kind in kinds:
        yield _indexed(models[-1], embeddings[models[-1].stage], kind, images, k, runs, seed)


def exact_search(
    model: MeasuredModel, vectors: np.ndarray, images: ImageSet, more: Mapping[str, Any] | None = None
) -> Search:
    """Return exact search with one model.

    Args:
        model: the model.
        vectors: its vectors of the images, float ``(N, D)``.
        images: the images.
        more: additional fields of this row in ``report.json``.
    """
    find = exact(vectors, images, model.metric)
    return Search(model.stage, model, int(vectors.shape[1]), find, dict(more or {}))


def _mixed(
    query: MeasuredModel, gallery: MeasuredModel, embeddings: Mapping[str, np.ndarray], images: ImageSet
) -> Search:
    of_query, of_gallery = embeddings[query.stage], embeddings[gallery.stage]
    cosines = np.einsum("nd,nd->n", comparable(of_query, "cosine"), comparable(of_gallery, "cosine"), dtype=np.float64)
    pair = {"query": query.stage, "gallery": gallery.stage, "agreement": float(cosines.mean())}
    return Search(
        f"{query.stage} → {gallery.stage}",
        query,
        int(of_query.shape[1]),
        exact(of_query, images, query.metric, gallery=of_gallery),
        {"pair": pair},
    )


def _indexed(
    model: MeasuredModel, vectors: np.ndarray, kind: str, images: ImageSet, k: int, runs: int, seed: int
) -> Search:
    queries, gallery, _ = queries_and_gallery(images)
    index: VectorIndex = make_index(vectors[gallery], kind, model.metric, seed=seed)
    log.info("measuring %s through %s", model.stage, kind)
    facts = {
        "kind": kind,
        "of": model.stage,
        "parameters": index.parameters,
        "bytes_per_vector": index.bytes_per_vector,
        "fixed_bytes": index.fixed_bytes,
        "ms_per_query": milliseconds_per_query(index, vectors[queries], k, runs),
    }

    def find(rows: np.ndarray, count: int, own: np.ndarray) -> np.ndarray:
        nearest = index.search(vectors[rows], k, own)[1]  # a search for more than k may not find these
        if count <= k:
            return nearest[:, :count]
        deep = index.search(vectors[rows], count, own, as_for=k)[1]
        known = (deep[:, :, None] == nearest[:, None, :]).any(axis=2)
        found = np.concatenate([nearest, np.where(known, -1, deep)], axis=1)
        order = np.argsort(found < 0, axis=1, kind="stable")  # -1, where an index finds fewer, comes last
        return np.take_along_axis(found, order, axis=1)[:, :count]

    return Search(f"{model.stage} + {kind}", model, int(vectors.shape[1]), find, {"index": facts})


def step(
    search: Search,
    before: Sequence[Mapping[str, Any]],
    scores: Mapping[str, np.ndarray],
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """Return what a row gains or loses against the row it derives from.

    A search through an index derives from the exact search, a model folder from the teacher, an ONNX file of lower
    precision from the fp32 file before it if there is one, and any other file from the model before it.

    Args:
        search: the row.
        before: the earlier rows of the report.
        scores: scores of each query, by stage; bool or float ``(Q,)``.
        resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.

    Returns:
        ``{"from": stage, "difference": of the means, "interval": [low, high]}``; None for rows that derive from no
        other: the teacher, or the first model without a teacher, pairs, baselines and foreign models.
    """
    models = [row["stage"] for row in before if not {"pair", "index", "baseline", "foreign"} & row.keys()]
    if {"pair", "baseline", "foreign"} & search.more.keys() or not (models or "index" in search.more):
        return None
    fp32 = [stage for stage in models if stage.startswith("onnx-fp32")]
    origin = models[-1] if models else ""
    if "index" in search.more:
        origin = search.more["index"]["of"]
    elif search.stage.startswith("student"):
        if models[0] != "teacher":
            return None
        origin = models[0]
    elif fp32 and search.stage.startswith("onnx-") and not search.stage.startswith("onnx-fp32"):
        origin = fp32[-1]
    low, high = drop_interval(scores[search.stage], scores[origin], resamples, seed)
    difference = float(scores[search.stage].mean()) - float(scores[origin].mean())
    return {"from": origin, "difference": difference, "interval": [0.0 - high, 0.0 - low]}


def finding(
    stage: str, pair: Mapping[str, Any], scores: Mapping[str, np.ndarray], measure: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Return whether a mixed pair scores between its two models alone, and if not, a possible reason.

    Args:
        stage: stage of the pair.
        pair: the stages ``query`` and ``gallery`` of its models, and ``agreement``.
        scores: scores of each query, by stage; bool or float ``(Q,)``.
        measure: name of the measure that their mean is.
        resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.

    Returns:
        ``{"between": bool, "finding": sentence}``.
    """
    mean = {name: float(scores[name].mean()) for name in (stage, pair["query"], pair["gallery"])}
    said = {name: f"{name} ({100 * value:.2f} %)" for name, value in mean.items()}
    worse, better = sorted((pair["query"], pair["gallery"]), key=lambda name: mean[name])
    between = mean[worse] <= mean[stage] <= mean[better]
    below = mean[stage] < mean[worse]
    where = "between" if between else "below" if below else "above"
    sentence = f"{measure} of {said[stage]} is {where} those of {said[worse]} and {said[better]}."
    if not between:
        nearer = worse if below else better
        low, high = retention_interval(scores[stage], scores[nearer], resamples, seed)
        sentence += f" The interval of its ratio to that of {nearer} is [{low:.4f}, {high:.4f}]: "
        if low <= 1 <= high:
            sentence += "the choice of queries alone can make such a difference."
        else:
            sentence += (
                "more than the choice of queries makes. The two models place the same image differently (mean cosine "
                f"{pair['agreement']:.4f})."
            )
    return {"between": between, "finding": sentence}
