"""How int8 is judged: retrieval among images of held-out classes, which are preprocessed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto

from export.onnx.tracing import Graphs, Traced, join
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import DataError
from zoo.files import scratch_array
from zoo.models.facts import facts_of
from zoo.progress import progress
from zoo.retrieval.label_measures import NDCG_K, measure_by_labels
from zoo.retrieval.measures import measure
from zoo.retrieval.protocol import measurable, require_measurable
from zoo.sessions import cpu_session

log = logging.getLogger(__name__)

VALIDATION, OTHERS, HALVES = "validation classes", "other training images", "training classes"
_LEAST_OF_CLASS = 8
_CACHE_BYTES = 256 << 20  # decoded pixels kept: judged images are read once, calibration images twice
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are retrieved among themselves.

    Attributes:
        of: what they are: "validation classes", "other training images" (not used for calibration) or "training
            classes" (half of each, if no classes are held out).
        images: the images.
    """

    of: str
    images: ImageSet


class Judge:
    """Measures networks on the same images, preprocessed once."""

    def __init__(self, traced: Traced, parts: Sequence[Part], folder: Path, seed: int) -> None:
        self.graphs = traced.graphs
        self.parts = tuple(parts)
        self.source = traced.name
        self.metric = facts_of(traced.model).metric
        self.seed = seed
        self.by_class = self.parts[0].images.labels is not None
        self.name = "Recall@1" if self.by_class else f"nDCG@{NDCG_K}"
        sides = traced.graphs.network.graph.input[0].type.tensor_type.shape.dim[1:]
        shape = tuple(side.dim_value for side in sides)
        # On disk, because 2,000 images take 1.2 GB at 224 pixels.
        count = sum(len(part.images) for part in self.parts)
        tensors = scratch_array(folder / "tensors", (count, *shape))
        ends = np.cumsum([len(part.images) for part in self.parts])
        self.tensors = np.split(tensors, ends[:-1])
        row = 0
        with progress(None, "preparing images", count) as shown:
            for part in self.parts:
                for tensor in preprocessed(self.graphs, part.images):
                    tensors[row] = tensor[0]
                    row += 1
                    shown.update()

    def embed(self, network: ModelProto, one_by_one: bool, part: int = 0, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the embeddings of a part's images, all or the given rows, float32 ``(N, dim)``.

        With dynamic quantisation images must run one by one: a batch would share one range.
        """
        session = session_of(join(replace(self.graphs, network=network), "tensor"), threads=None)
        step = 1 if one_by_one else _BATCH
        tensors = self.tensors[part]
        wanted = np.arange(len(tensors)) if rows is None else rows
        starts = progress(range(0, len(wanted), step), "embedding", shown=rows is None)
        embedded = [session.run(None, {"tensor": tensors[wanted[at : at + step]]})[0] for at in starts]
        return np.concatenate(embedded)

    def measure(
        self, embeddings: np.ndarray, part: int = 0, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the score of each query of a part, ``(Q,)``, and its 10 nearest images, ``(Q, 10)``."""
        images = self.parts[part].images
        images = images if rows is None else images.subset(rows)
        if self.by_class:
            result = measure(embeddings, images, self.metric, ks=(1, 10))
            return result.recall[1], result.neighbours
        by_labels = measure_by_labels(embeddings, images, self.metric)
        return by_labels.ndcg(NDCG_K), by_labels.neighbours


def preprocessed(graphs: Graphs, images: ImageSet) -> Iterator[np.ndarray]:
    """Yield the network's input for each image, float32 ``(1, 3, h, w)``, from the preprocessing graph that ships."""
    session = session_of(graphs.preprocess, threads=None)
    for index in range(len(images)):
        yield session.run(None, {"image": images.pixels(index)[None]})[0]


def images_of(
    splits: DataSplits, count: int, judged_images: int, max_unreadable: int, seed: int
) -> tuple[ImageSet, list[Part]]:
    """Draw calibration images and images to judge on, never test images.

    Validation classes judge first. Training images not used for calibration are added, balanced over classes, as far as
    ``judged_images`` allows. If no classes are held out, half of the images of each training class judge, with a
    warning.

    Args:
        splits: the data.
        count: number of calibration images, drawn from the training images and balanced over classes.
        judged_images: largest number of images to judge on.
        max_unreadable: unreadable images left out of each before an error.
        seed: seed of the draw.

    Returns:
        The calibration images, and one or two parts to judge on.

    Raises:
        DataError: there are no training images, or retrieval cannot be measured on the images to judge on.
    """
    if not len(splits.train):
        raise DataError(f"{splits.name} has no training images to calibrate int8 on. Choose another split.")
    if len(splits.validation):
        source, judged, of = splits.train, splits.validation, VALIDATION
    else:
        log.warning("%s has no validation images: int8 is judged on training classes.", splits.name)
        source, judged = (splits.train.subset(half) for half in _halves(splits.train, seed))
        of = HALVES
    if judged.labels is None and judged.continuous is None:
        raise DataError(
            f"{splits.name} has no labels to judge int8 by. Put each class's images in a folder, give "
            "continuous_labels, or export fp32 or fp16."
        )
    drawn = balanced(source, count, seed)
    calibration = source.subset(np.sort(drawn)).checked(max_unreadable, _CACHE_BYTES)
    judged = judged.subset(np.sort(judging(judged, judged_images, seed))).checked(max_unreadable, _CACHE_BYTES)
    require_measurable(judged, "judging")
    parts = [Part(of, judged)]
    left = judged_images - len(judged)
    if of == VALIDATION and left > 0:
        others = source.subset(np.setdiff1d(np.arange(len(source)), drawn))
        others = others.subset(_evened(others, seed))
        others = others.subset(np.sort(judging(others, left, seed)))
        if len(others) and measurable(others):
            others = others.checked(max_unreadable, _CACHE_BYTES)
            if measurable(others):  # still, without those that cannot be read
                parts.append(Part(OTHERS, others))
    return calibration, parts


def _evened(images: ImageSet, seed: int) -> np.ndarray:
    """Return rows, ascending, that cap each class at the size of the median class, but not below 8.

    Classes with many images are often easy, and would hide what int8 does to the others.
    """
    groups = _groups(images)
    sizes = np.bincount(groups)[np.unique(groups)] if len(groups) else np.ones(1)
    turns = _turns(groups, np.random.default_rng(seed).permutation(len(images)))
    most = len(images) if images.labels is None else max(int(np.median(sizes)), _LEAST_OF_CLASS)
    return np.flatnonzero(turns < most)


def _halves(images: ImageSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows in two halves of every class; the second half gets the odd image."""
    groups = _groups(images)
    turns = _turns(groups, np.random.default_rng(seed).permutation(len(images)))
    first = turns < np.bincount(groups)[groups] // 2
    return np.flatnonzero(first), np.flatnonzero(~first)


def balanced(images: ImageSet, count: int, seed: int) -> np.ndarray:
    """Return rows drawn at random, as equally from all classes as possible; int ``(min(count, N),)``.

    Args:
        images: the images; without labels, all are of one class.
        count: number of rows.
        seed: seed of the draw.
    """
    shuffled = np.random.default_rng(seed).permutation(len(images))
    return shuffled[np.argsort(_turns(_groups(images), shuffled)[shuffled], kind="stable")][:count]


def judging(images: ImageSet, count: int, seed: int) -> np.ndarray:
    """Return rows of images to retrieve among, int, at most ``count``: of many classes, with several images of each.

    Classes are drawn at random. Each gives an equal share of ``count``, but at least 8 images, queries and gallery in
    turn: with fewer, a query would have hardly another image of its class to find.

    Args:
        images: the images.
        count: largest number of rows.
        seed: seed of the draw.
    """
    if len(images) <= count:
        return np.arange(len(images))
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(images))
    if images.labels is None:
        return shuffled[:count]
    labels = images.labels
    roles = np.zeros(len(images), np.int64) if images.roles is None else np.unique(images.roles, return_inverse=True)[1]
    turns = _turns(labels * (roles.max() + 1) + roles, shuffled)
    classes = generator.permutation(np.unique(labels))
    places = np.empty(labels.max() + 1, dtype=np.int64)
    places[classes] = np.arange(len(classes))
    order = np.lexsort((turns, places[labels]))  # class after class; within one, roles take turns
    within = np.arange(len(order)) - np.searchsorted(places[labels][order], places[labels][order])
    return order[within < max(_LEAST_OF_CLASS, count // len(classes))][:count]


def _groups(images: ImageSet) -> np.ndarray:
    """Return the class of each image, int64 ``(N,)``; without labels, all are of one class."""
    return np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels


def _turns(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return each row's position within its group, from 0, when rows are visited in ``order``; int ``(N,)``."""
    turns = np.empty(len(groups), dtype=np.int64)
    met: dict[int, int] = {}
    for row in order:
        group = int(groups[row])
        turns[row] = met.get(group, 0)
        met[group] = turns[row] + 1
    return turns


def session_of(proto: ModelProto, threads: int | None) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU with a number of threads, or None for onnxruntime's choice."""
    return cpu_session(proto.SerializeToString(), threads)
