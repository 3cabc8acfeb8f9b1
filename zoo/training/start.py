"""Start training from a pretrained network with a head that is fitted without gradients.

The pretrained network is first measured on the validation images: its pooled features by cosine, since their length
means nothing, and its fitted heads by the model's metric, as every epoch is. With the best head it is epoch 0: a
candidate for the best epoch, and the weights for averaging with the best epoch's ("Robust fine-tuning of zero-shot
models", WiSE-FT, arXiv:2109.01903). So training can add to what the network knows, but cannot lose it unnoticed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError, first_line
from zoo.files import write_json
from zoo.formats.documents import MAPPING, TEXT, read_document, require_kinds
from zoo.models.embedding import embed_pooled
from zoo.models.facts import COSINE, facts_of
from zoo.models.making import classifier_of
from zoo.models.network import linear_head_of, summary_of
from zoo.retrieval.nearest import comparable
from zoo.retrieval.projection import classifier_directions, discriminant_directions, principal_directions
from zoo.training.checkpoints import START_FACTS, START_WEIGHTS, read_best, write_best
from zoo.training.learner import Learner, contiguous
from zoo.training.options import Training

log = logging.getLogger(__name__)

MOST_FITTED = 10_000  # images that a head is fitted to; more change it little
SHRINKAGES = (0.9, 0.7, 0.5, 0.3, 0.1)
SHARES = (0.25, 0.5, 0.75)
"""Shares of the trained weights in averages with the initial ones; 0 and 1 are measured anyway."""
AS_IT_COMES = "as it comes"
_MODEL = "model."  # prefix of the network's weights in a learner's state dict


class Start(Callback):
    """Measures a pretrained network before training, fits its head, and offers it as epoch 0.

    Candidates for the head are the principal directions of the training images' pooled features, plain or weighted by
    the classifier that the network was pretrained with, and, if classes are known, directions that separate them: see
    ``zoo.retrieval.projection``. The head that retrieves best on the validation images is taken; without those, the
    plain principal directions.

    Args:
        images: training images.
        use_labels: fit heads to their classes too.
        seed: seed for choosing images if there are more than ``MOST_FITTED``.
        classifier: float ``(C, F)``, the classifier that the network was pretrained with, or None.
        targets: returns the vectors ``(N, dim)`` that the loss will pull the images' embeddings towards, if there are
            any: the head is then rotated towards them, which changes no distance.
        features: pooled features ``(N, F)`` of the images, if already computed.
    """

    def __init__(
        self,
        images: ImageSet,
        use_labels: bool,
        seed: int,
        classifier: np.ndarray | None = None,
        targets: Callable[[ImageSet], np.ndarray] | None = None,
        features: np.ndarray | None = None,
    ) -> None:
        self.classifier, self.targets = classifier, targets
        labelled = use_labels and images.labels is not None
        rows = np.arange(len(images))
        if len(rows) > MOST_FITTED:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_FITTED, replace=False))
        self.images = images.subset(rows) if labelled else images.without_labels().subset(rows)
        self._features = None if features is None else features[rows]
        self.head = ""
        self._pooled: list[np.ndarray] = []  # features of these images and of the validation images, once computed
        self.measured: dict[str, dict[str, float]] = {}
        self.weights: dict[str, Tensor] = {}

    @classmethod
    def of(
        cls,
        asked: Training,
        images: ImageSet,
        use_labels: bool,
        targets: Callable[[ImageSet], np.ndarray] | None = None,
        features: np.ndarray | None = None,
    ) -> Start | None:
        """Return the start of a training with pretrained weights and a fitted head, or None without either."""
        network = asked.network
        if not (network.pretrained and asked.optimisation.fit_head) or not isinstance(network.arch, str):
            return None
        classifier = classifier_of(network.arch, network.pretrained)
        return cls(images, use_labels, asked.machine.seed, classifier, targets, features)

    def facts(self) -> dict[str, Any]:
        """Return the facts for the model card: the head that training started with, and the measures before it."""
        return {"start": {"head": self.head, "measured": self.measured}}

    def on_fit_start(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        assert isinstance(learner, Learner) and learner.checkpoints is not None
        begun = learner.checkpoints / START_FACTS
        if begun.is_file():
            try:
                known = read_document(begun)
                require_kinds(known, {"measured": MAPPING, "head": TEXT})
            except ValueError as error:
                raise ModelError(
                    f"{begun} cannot be read ({first_line(error)}). Remove its stage's folder to train again."
                ) from error
            self.measured, self.head = known["measured"], known["head"]
            begun_with = read_best(learner.checkpoints / START_WEIGHTS)
            if trainer.ckpt_path is None:  # stopped before the end of its first epoch
                learner.load_state_dict(begun_with)
        else:
            self._fit_head(learner)
            begun_with = contiguous(learner)
            if trainer.is_global_zero:
                write_best(begun_with, learner.checkpoints / START_WEIGHTS)
                write_json(begun, {"measured": self.measured, "head": self.head})
        self.weights = {
            name.removeprefix(_MODEL): weight for name, weight in begun_with.items() if name.startswith(_MODEL)
        }
        if learner.best["epoch"] is None and self.head in self.measured:
            learner.note(0, self.measured[self.head])
        learner.draw_to(self.weights)

    def _fit_head(self, learner: Learner) -> None:
        head = linear_head_of(learner.model)
        if head is None:
            log.warning(
                "The head of %s is not one linear layer: it starts at random, so the pretrained network is neither "
                "measured nor kept.",
                summary_of(learner.model)["architecture"],
            )
            return
        features = self._features_by(learner)
        seen = None if learner.validation is None else learner.pooled_validation(progress=True)
        self._pooled = [features] if seen is None else [features, seen]
        if seen is not None:
            self._measure(learner, AS_IT_COMES, seen, COSINE)
        metric = facts_of(learner.model).metric
        chosen: np.ndarray | None = None
        for name, fit in self._heads(features, self.images.labels, int(head.weight.shape[0]), metric).items():
            try:
                directions = fit()
            except DataError as error:
                log.info("head %s left out: %s", name, error)
                continue
            if seen is not None:
                self._measure(learner, name, seen @ directions.T, metric)
            if chosen is None or self._score(learner, name) > self._score(learner, self.head):
                chosen, self.head = directions, name
            if seen is None:
                break
        assert chosen is not None
        if self.targets is not None:
            chosen = turned(chosen, features, self.targets(self.images), metric)
        set_head(head, chosen)
        begin_proxies(learner.loss, features @ chosen.T, self.images.labels)
        log.info("training starts with %s", self.head)

    def refit(self, learner: Learner) -> None:
        """Fit the head again if epoch 0 is kept, now to the validation images too.

        They are no longer needed for choosing, and directions generalise better the more classes they are fitted to.
        """
        head = linear_head_of(learner.model)
        if head is None or learner.validation is None or self.head not in self.measured:
            return
        sets = (self.images, learner.validation)
        # a resumed run has no features yet
        features = np.concatenate(
            self._pooled or [self._features_by(learner), learner.pooled_validation(progress=True)]
        )
        labels = [images.labels for images in sets if images.labels is not None]
        both = np.concatenate(labels) if len(labels) == len(sets) else None
        metric = facts_of(learner.model).metric
        set_head(head, self._heads(features, both, int(head.weight.shape[0]), metric)[self.head]())
        log.info("the head %s is fitted again, now to the validation images too", self.head)

    def _features_by(self, learner: Learner) -> np.ndarray:
        """Return the pooled features ``(N, F)`` of the images that heads are fitted to."""
        if self._features is not None:
            return self._features
        return learner.by_all_ranks(partial(embed_pooled, learner.model), self.images)

    def _measure(self, learner: Learner, name: str, embeddings: np.ndarray, metric: str) -> None:
        found = learner.judge(embeddings, metric)
        self.measured[name] = {key: round(value, 6) for key, value in found.items()}
        log.info("the network %s, on validation: %s", name, learner.in_words(found))

    def _score(self, learner: Learner, name: str) -> float:
        return self.measured[name][learner.chosen_by] if name in self.measured else 0.0

    def _heads(
        self, features: np.ndarray, labels: np.ndarray | None, dim: int, metric: str
    ) -> dict[str, Callable[[], np.ndarray]]:
        """Return functions by name that fit a head ``(dim, F)`` to features ``(N, F)``, the plainest first."""
        heads: dict[str, Callable[[], np.ndarray]] = {
            f"PCA to {dim}": partial(principal_directions, features, dim, metric)
        }
        if self.classifier is not None and self.classifier.shape[1] == features.shape[1]:
            heads[f"PCA by the classifier to {dim}"] = partial(
                classifier_directions, features, self.classifier, dim, metric
            )
        if labels is None:
            return heads
        for shrinkage in SHRINKAGES:
            name = f"whitened to {dim}, shrinkage {shrinkage:g}"
            heads[name] = partial(discriminant_directions, features, labels, dim, shrinkage, metric)
        return heads

    def average(self, learner: Learner) -> dict[str, Any]:
        """Average the best weights with the initial ones, in the share that retrieves best on the validation images.

        Args:
            learner: holds the weights of the best epoch; the average that retrieves best is loaded into it.

        Returns:
            ``{"share": of the trained weights, "measured": {share: measure}}``; empty if no epoch was better than the
            network before training, or if that was not measured.
        """
        if not learner.best["epoch"] or self.head not in self.measured:
            return {}
        trained, key = contiguous(learner.model), learner.chosen_by
        found: dict[float, dict[str, float]] = {1.0: learner.best}
        for share in SHARES:
            learner.model.load_state_dict(_between(self.weights, trained, share))
            found[share] = learner.measure_validation()
        chosen = max(found, key=lambda share: (found[share][key], share))
        learner.model.load_state_dict(_between(self.weights, trained, chosen))
        log.info(
            "averaged the weights, %g of the trained and %g of the initial ones: %s on validation, %s with the trained "
            "ones alone",
            chosen,
            1 - chosen,
            learner.in_words(found[chosen]),
            learner.in_words(found[1.0]),
        )
        learner.best = learner.best | {name: round(found[chosen][name], 6) for name in self.measured[self.head]}
        return {"share": chosen, "measured": {f"{share:g}": found[share][key] for share in sorted(found)}}


def _between(first: dict[str, Tensor], last: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Interpolate weights: 0 gives the first, 1 the last; integers, such as counts of batches, are the last's."""
    return {
        name: torch.lerp(first[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in last.items()
    }


def turned(directions: np.ndarray, features: np.ndarray, targets: np.ndarray, metric: str = COSINE) -> np.ndarray:
    """Rotate directions so that projected features come closest to targets (orthogonal Procrustes problem).

    Args:
        directions: float ``(dim, F)``.
        features: float ``(N, F)``.
        targets: float ``(N, dim)``.
        metric: how projections are compared, "cosine" or "euclidean".

    Returns:
        float32 ``(dim, F)``; distances between projections do not change.
    """
    made = comparable(features @ directions.T, metric)
    left, _, right = np.linalg.svd(targets.T.astype(np.float64) @ made)
    return (left @ right @ directions).astype(np.float32)


def set_head(head: nn.Linear | nn.Conv2d, directions: np.ndarray) -> None:
    """Set the weight of a linear head to these rows, ``(dim, F)``, and its bias to zero."""
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(directions).view_as(head.weight))
        if head.bias is not None:
            head.bias.zero_()


def begin_proxies(loss: nn.Module, embeddings: np.ndarray, labels: np.ndarray | None) -> None:
    """Initialise a loss's proxies with the mean direction of each class's embeddings, at their former length.

    Random proxies would first pull the network towards themselves.

    Args:
        loss: parameters are set whose name ends in ``proxies`` and that have one row per class.
        embeddings: float ``(N, dim)``.
        labels: int ``(N,)``; with None nothing is set.
    """
    if labels is None:
        return
    unit = torch.from_numpy(comparable(embeddings, COSINE))
    classes, which = np.unique(labels, return_inverse=True)
    means = torch.zeros(len(classes), unit.shape[1]).index_add_(0, torch.from_numpy(which), unit)
    for name, proxies in loss.named_parameters():
        if name.endswith("proxies") and proxies.shape == means.shape:
            with torch.no_grad():
                length = proxies.norm(dim=1, keepdim=True)
                proxies.copy_(nn.functional.normalize(means, dim=1).to(proxies) * length)
