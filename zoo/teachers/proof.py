"""Check that a teacher is better than chance, before a student learns from it for hours."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError
from zoo.models.embedding import fastest_device
from zoo.models.preprocessing import Preprocessing
from zoo.retrieval.label_measures import NDCG_K, LabelRetrievalResult, measure_by_labels, random_order
from zoo.retrieval.measures import RetrievalResult, measure
from zoo.retrieval.protocol import chance_of, positives_of, queries_and_gallery, require_measurable
from zoo.teachers.base import Teacher

log = logging.getLogger(__name__)

_REACHABLE = 0.75  # a bound above this would also refuse good teachers
_LEVEL = 0.00135  # fraction of random teachers that may pass: three standard errors of a normal distribution
_ERRORS = 3.33  # standard errors for the same level when 30 permutations estimate them (Student's distribution)
_DEALT, _FEWEST = 2000, 30  # largest and smallest number of random permutations
_IMAGES_DEALT = {"Recall@1": 20_000_000, "nDCG": 300_000}  # images over all permutations; large sets need fewer


@dataclass(frozen=True)
class Proof:
    """How far a teacher is from chance.

    Attributes:
        measure: "Recall@1" or "nDCG@10".
        score: the teacher's score, in [0, 1].
        chance: the score of a random order.
        bound: a score that a random teacher exceeds once in 700 times.
        queries: number of queries measured.
    """

    measure: str
    score: float
    chance: float
    bound: float
    queries: int

    @property
    def sure(self) -> bool:
        """Return whether there are enough queries to distinguish a good teacher from chance reliably.

        The nDCG of a random order is far above 0; good teachers reach at least half of the remaining gain.
        """
        return self.bound <= (_REACHABLE if self.measure == "Recall@1" else (1 + self.chance) / 2)

    @property
    def fault(self) -> str:
        """Return a text that the teacher is no better than chance, or "" if it is better.

        It must exceed the bound, or chance itself if there are few queries.
        """
        if self.score > (self.bound if self.sure else self.chance):
            return ""
        return (
            f"no better than chance: {self.measure} {self.score:.4f}, chance {self.chance:.4f}, {self.queries} queries"
        )


def proof_by_class(result: RetrievalResult, images: ImageSet, seed: int = 0) -> Proof:
    """Return how far a teacher's Recall@1 is from chance.

    The bound is from a permutation test, in which the same embeddings are assigned at random to images of the same
    role. If two images are nearest to each other, their hits are correlated, so a binomial bound would be too low.

    Args:
        result: measured on ``images``.
        images: the images, with their classes.
        seed: seed of the permutations.
    """
    assert images.labels is not None
    generator, labels = np.random.default_rng(seed), images.labels
    roles = np.full(len(images), "") if images.roles is None else images.roles.astype(str)
    rows_of_roles = [np.flatnonzero(roles == role) for role in np.unique(roles)]
    answerable = positives_of(images) > 0
    has_positive = np.zeros(len(images), bool)
    has_positive[queries_and_gallery(images)[0]] = answerable
    nearest, dealt = result.neighbours[:, 0], []
    owner = np.arange(len(images))
    for _ in range(_deals(len(images), "Recall@1")):
        for rows in rows_of_roles:
            owner[rows] = generator.permutation(rows)
        queries = owner[result.queries]
        hits = labels[queries] == labels[owner[nearest]]
        dealt.append(hits.sum() / max(has_positive[queries].sum(), 1))
    bound = _bound(np.array(dealt), result.chance)
    return Proof("Recall@1", result.recall_at(1), result.chance, bound, len(result.queries))


def proof_by_labels(result: LabelRetrievalResult, images: ImageSet) -> Proof:
    """Return how far a teacher's nDCG@10 is from chance.

    Raises:
        DataError: by the labels, all orders of the images are equally good.
    """
    orders = random_order(result, images, _deals(len(images), "nDCG"))
    dealt = np.array([at_random.ndcg_at(NDCG_K) for at_random in orders])
    chance = float(np.mean(dealt))
    if chance > 1 - 1e-9:
        raise DataError(
            f"By their continuous labels, all orders of the {len(images)} images are equally good, so nothing can be "
            "measured. Give more images, or labels that differ."
        )
    return Proof(f"nDCG@{NDCG_K}", result.ndcg_at(NDCG_K), chance, _bound(dealt, chance), len(result.queries))


def prove_teacher(teacher: Teacher, images: ImageSet) -> dict[str, float]:
    """Measure a teacher before a student learns from it.

    Returns:
        ``{"recall_at_1": fraction, "map_at_r": fraction}``, or ``{"ndcg_at_10": fraction}`` if continuous labels judge:
        because the images have no classes, or the teacher is known to have learned from continuous labels.

    Raises:
        ModelError: random teachers reach its score; or, if there are too few queries and classes to be sure, its score
            is not above chance.
        DataError: by the labels, all orders of the images are equally good.
    """
    vectors = teacher.to(fastest_device()).embed_images(images)
    embeddings = images.require_finite(vectors, f"Teacher {teacher.name}")
    by_class = not judged_by_labels(teacher, images)
    if by_class:
        require_measurable(images, "labelled")
        result = measure(embeddings, images, teacher.metric)
        proof = proof_by_class(result, images)
        measured = {"recall_at_1": proof.score, "map_at_r": float(result.average_precision.mean())}
    else:
        proof = proof_by_labels(measure_by_labels(embeddings, images, teacher.metric), images)
        measured = {f"ndcg_at_{NDCG_K}": proof.score}
    found = f"{proof.measure} {100 * proof.score:.2f} % on {proof.queries} queries (chance {100 * proof.chance:.2f} %)"
    log.info("the teacher (%s) has %s", teacher.name, found)
    if not log.isEnabledFor(logging.INFO):  # Python's default; users must see this before hours of training
        print(f"the teacher ({teacher.name}) has {found}", file=sys.stderr)
    for doubt in doubts(proof, teacher.name, images):
        log.warning(doubt)
    if proof.fault:
        raise ModelError(
            f"Teacher {teacher.name} is {proof.fault}. Check that its weights are loaded and its preprocessing is "
            "right."
        )
    return measured


def doubts(proof: Proof, name: str, images: ImageSet) -> list[str]:
    """Return warnings, in sentences, about a teacher that is better than chance, or about its proof.

    Args:
        proof: the teacher's proof.
        name: the teacher's name.
        images: the images that it was measured on.
    """
    found = []
    if not proof.sure:
        found.append(f"{proof.queries} queries are too few to tell the teacher ({name}) from chance for sure.")
    if proof.fault:
        return found
    thumbnails = _thumbnails(images)
    if proof.measure == "Recall@1":
        plain = measure(thumbnails, images).recall_at(1)
    else:
        plain = measure_by_labels(thumbnails, images).ndcg_at(NDCG_K)
    if proof.score < plain:
        found.append(
            f"the teacher ({name}) is worse than comparing 8 x 8 thumbnails ({proof.measure} {100 * plain:.2f} %). "
            "Check that its weights are loaded."
        )
    return found


def judged_by_labels(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether a teacher and its students are judged by the images' continuous labels instead of classes."""
    return images.continuous is not None and (images.labels is None or teacher.continuous)


def enough_to_prove(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether images have enough classes and queries to distinguish a good teacher from chance."""
    if images.labels is None or judged_by_labels(teacher, images):
        return True
    chance, queries = chance_of(images)
    return chance + 3 * _standard_error(chance, queries) <= _REACHABLE


def _deals(images: int, measure: str) -> int:
    """Return the number of permutations for a number of images."""
    return int(np.clip(_IMAGES_DEALT[measure] // max(images, 1), _FEWEST, _DEALT))


def _bound(dealt: np.ndarray, chance: float) -> float:
    """Return the score that a fraction _LEVEL of random teachers exceeds, given the scores of some."""
    above = int(_LEVEL * (len(dealt) + 1)) - 1  # this many of them may exceed the bound
    if above >= 0:
        return float(np.sort(dealt)[-1 - above])
    return chance + _ERRORS * float(np.std(dealt, ddof=1))  # with many images the distribution is normal


def _standard_error(chance: float, queries: int) -> float:
    return float((max(chance * (1 - chance), 1e-12) / max(queries, 1)) ** 0.5)


def _thumbnails(images: ImageSet) -> np.ndarray:
    """Return the images' pixels at 8 x 8, normalised by ImageNet's mean and std, float32 ``(N, 192)``."""
    small = [
        np.asarray(Image.fromarray(images.pixels(i)).resize((8, 8), Image.Resampling.BOX)) for i in range(len(images))
    ]
    mean, std = (np.asarray(values, np.float32) for values in (Preprocessing().mean, Preprocessing().std))
    thumbnails: np.ndarray = (np.stack(small).astype(np.float32) / 255 - mean) / std
    return thumbnails.reshape(len(images), -1)
