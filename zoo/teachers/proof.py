"""Whether a teacher knows anything, measured before a student learns from it for hours."""

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

_REACHABLE = 0.75  # a bound above this would refuse good teachers too
_LEVEL = 0.00135  # share of random teachers that may pass; that of three standard errors of a normal distribution
_ERRORS = 3.33  # standard errors beyond which that share lies where 30 deals estimate them (Student's distribution)
_DEALT, _FEWEST = 2000, 30  # times that embeddings are dealt to images at random
_IMAGES_DEALT = {"Recall@1": 20_000_000, "nDCG": 300_000}  # in all; of many images fewer deals tell as much


@dataclass(frozen=True)
class Proof:
    """How far a teacher is from chance.

    Attributes:
        measure: "Recall@1" or "nDCG@10".
        score: what the teacher reaches, in [0, 1].
        chance: what a random order reaches.
        bound: what a random teacher exceeds once in 700 times.
        queries: how many were measured.
    """

    measure: str
    score: float
    chance: float
    bound: float
    queries: int

    @property
    def sure(self) -> bool:
        """Whether the queries are enough to tell a good teacher from chance for sure.

        nDCG of a random order is far above 0, so of that good teachers reach half of what there is to gain.
        """
        return self.bound <= (_REACHABLE if self.measure == "Recall@1" else (1 + self.chance) / 2)

    @property
    def fault(self) -> str:
        """Say that the teacher is no better than chance; empty where it is better.

        It must exceed the bound, or chance itself where the queries are few.
        """
        if self.score > (self.bound if self.sure else self.chance):
            return ""
        return (
            f"no better than chance: {self.measure} {self.score:.4f}, chance {self.chance:.4f}, {self.queries} queries"
        )


def proof_by_class(result: RetrievalResult, images: ImageSet, seed: int = 0) -> Proof:
    """Return how far a teacher's Recall@1 is from chance.

    The bound is that of a permutation test: the same embeddings, dealt to the images of one role at random. Hits come
    in pairs where two images are nearest to each other, so that a binomial bound would let too many pass.

    Args:
        result: measured on ``images``.
        images: the images, with their classes.
        seed: of the dealing.
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
        DataError: the labels do not tell one order of the images from another.
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
        ``{"recall_at_1": fraction, "map_at_r": fraction}``, or ``{"ndcg_at_10": fraction}`` where continuous labels
        judge: where images have no class, or the teacher is known to have learned from them.

    Raises:
        ModelError: its score is one that random teachers reach, or not above chance where there are so few queries and
            classes that a good teacher might be refused.
        DataError: the labels do not tell one order of the images from another.
    """
    embeddings = teacher.to(fastest_device()).embed_images(images)
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
    if not log.isEnabledFor(logging.INFO):  # Python's own default; this is to be seen before hours of training
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
    """Return sentences on what speaks against a teacher that is better than chance, or against the proof of it.

    Args:
        proof: of the teacher.
        name: of the teacher.
        images: that it was measured on.
    """
    found = []
    if not proof.sure:
        found.append(f"{proof.queries} queries are too few to tell the teacher ({name}) from chance for sure")
    if proof.fault:
        return found
    thumbnails = _thumbnails(images)
    if proof.measure == "Recall@1":
        plain = measure(thumbnails, images).recall_at(1)
    else:
        plain = measure_by_labels(thumbnails, images).ndcg_at(NDCG_K)
    if proof.score < plain:
        found.append(
            f"the teacher ({name}) is worse than comparing 8 x 8 thumbnails ({proof.measure} {100 * plain:.2f} %); are "
            "its weights loaded?"
        )
    return found


def judged_by_labels(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether a teacher and its students are judged by the images' continuous labels and not by classes."""
    return images.continuous is not None and (images.labels is None or teacher.continuous)


def enough_to_prove(teacher: Teacher, images: ImageSet) -> bool:
    """Return whether images have enough classes and queries to tell a good teacher from chance."""
    if images.labels is None or judged_by_labels(teacher, images):
        return True
    chance, queries = chance_of(images)
    return chance + 3 * _standard_error(chance, queries) <= _REACHABLE


def _deals(images: int, measure: str) -> int:
    """Return how many times embeddings are dealt to so many images."""
    return int(np.clip(_IMAGES_DEALT[measure] // max(images, 1), _FEWEST, _DEALT))


def _bound(dealt: np.ndarray, chance: float) -> float:
    """Return what a share of _LEVEL of random teachers exceeds, given what some of them reach."""
    above = int(_LEVEL * (len(dealt) + 1)) - 1  # as many may reach a score that passes
    if above >= 0:
        return float(np.sort(dealt)[-1 - above])
    return chance + _ERRORS * float(np.std(dealt, ddof=1))  # of many images the distribution is normal


def _standard_error(chance: float, queries: int) -> float:
    return float((max(chance * (1 - chance), 1e-12) / max(queries, 1)) ** 0.5)


def _thumbnails(images: ImageSet) -> np.ndarray:
    """Return the images' pixels at 8 x 8, float32 ``(N, 192)``, around the mean of photographs."""
    small = [
        np.asarray(Image.fromarray(images.pixels(i)).resize((8, 8), Image.Resampling.BOX)) for i in range(len(images))
    ]
    mean, std = (np.asarray(values, np.float32) for values in (Preprocessing().mean, Preprocessing().std))
    thumbnails: np.ndarray = (np.stack(small).astype(np.float32) / 255 - mean) / std
    return thumbnails.reshape(len(images), -1)
