"""Whether a teacher knows anything, measured before a student learns from it for hours."""

from __future__ import annotations

import logging
import sys

import numpy as np
import torch

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError
from zoo.models.embedding import fastest_device
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.retrieval.label_measures import NDCG_K, measure_by_labels, random_order
from zoo.retrieval.measures import measure
from zoo.retrieval.protocol import chance_of, require_measurable
from zoo.teachers.base import Teacher

log = logging.getLogger(__name__)

_REACHABLE = 0.75  # a bound above this would refuse good teachers too


def prove_teacher(teacher: Teacher, images: ImageSet) -> dict[str, float]:
    """Measure a teacher before a student learns from it.

    Returns:
        ``{"recall_at_1": fraction}``, or ``{"ndcg_at_10": fraction}`` where continuous labels judge: where images have
        no class, or the teacher is known to have learned from them.

    Raises:
        ModelError: it is within three standard errors of chance, or not above chance where there are so few queries and
            classes that a good teacher might be.
        DataError: the labels do not tell one order of the images from another.
    """
    embeddings = teacher.to(fastest_device()).embed_images(images)
    by_class = not judged_by_labels(teacher, images)
    if by_class:
        require_measurable(images, "labelled")
        key, name = "recall_at_1", "Recall@1"
        result = measure(embeddings, images, teacher.metric)
        score, chance, queries = result.recall_at(1), result.chance, len(result.queries)
        error = _standard_error(chance, queries)
    else:
        key, name = f"ndcg_at_{NDCG_K}", f"nDCG@{NDCG_K}"
        by_labels = measure_by_labels(embeddings, images, teacher.metric)
        score, queries = by_labels.ndcg_at(NDCG_K), len(by_labels.queries)
        dealt = [at_random.ndcg_at(NDCG_K) for at_random in random_order(by_labels, images)]
        chance, error = float(np.mean(dealt)), float(np.std(dealt, ddof=1))
        if chance > 1 - 1e-9:
            raise DataError(
                f"Every order of the {len(images)} images is the best by their continuous labels, so nothing can be "
                "measured by them. Give more images, or labels that differ."
            )
    found = f"{name} {100 * score:.2f} % on {queries} queries (chance {100 * chance:.2f} %)"
    log.info("the teacher (%s) has %s", teacher.name, found)
    if not log.isEnabledFor(logging.INFO):  # Python's own default; this is to be seen before hours of training
        print(f"the teacher ({teacher.name}) has {found}", file=sys.stderr)
    bound = chance + 3 * error
    if bound > _REACHABLE:
        log.warning("%d queries are too few to tell the teacher (%s) from chance for sure", queries, teacher.name)
        bound = chance
    if score <= bound:
        raise ModelError(
            f"Teacher {teacher.name} is no better than chance: {name} {score:.4f}, chance {chance:.4f}, "
            f"{queries} queries. Check that its weights are loaded and its preprocessing is right."
        )
    thumbnails = _thumbnails(images)
    if by_class:
        plain = measure(thumbnails, images).recall_at(1)
    else:
        plain = measure_by_labels(thumbnails, images).ndcg_at(NDCG_K)
    if score < plain:
        log.warning(
            "the teacher (%s) is worse than comparing 8 x 8 thumbnails (%s %.2f %%); are its weights loaded?",
            teacher.name,
            name,
            100 * plain,
        )
    return {key: score}


def judged_by_labels(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether a teacher and its students are judged by the images' continuous labels and not by classes."""
    return images.continuous is not None and (images.labels is None or teacher.continuous)


def enough_to_prove(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether images have enough classes and queries to tell a good teacher from chance."""
    if images.labels is None or judged_by_labels(teacher, images):
        return True
    chance, queries = chance_of(images)
    return chance + 3 * _standard_error(chance, queries) <= _REACHABLE


def _standard_error(chance: float, queries: int) -> float:
    return float((max(chance * (1 - chance), 1e-12) / max(queries, 1)) ** 0.5)


def _thumbnails(images: ImageSet) -> np.ndarray:
    small = Preprocess(Preprocessing(input_size=(8, 8), crop_pct=1.0, crop_mode="squash"))
    return np.concatenate(
        [small(torch.from_numpy(images.pixels(i))[None]).flatten(1).numpy() for i in range(len(images))]
    )
