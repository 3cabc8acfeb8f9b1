"""Choose the images of each batch. The same seed and epoch give the same batches, on any number of processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from zoo.errors import OptionError

if TYPE_CHECKING:
    from zoo.data.continuous import ContinuousLabels

Draw = tuple[int, int]
"""Index of an image, and a seed for its augmentation."""
_ROUNDS = 1  # separates the generators of rounds from those of epochs


class GlobalBatches(Sampler[list[Draw]], ABC):
    """Base of the samplers: epochs, and each process's part of a batch.

    Every process draws the same global batch and yields its own part of it, so the objective does not depend on the
    number of processes.

    Args:
        count: number of images.
        batch_size: images in a global batch, over all processes; at most ``count`` are used.
        seed: seed of all draws.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = min(batch_size, count)
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> GlobalBatches:
        """Return itself; Lightning looks here for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose batches the next iteration yields. Called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.count // self.batch_size, 1)

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, processes = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            rank, processes = distributed.get_rank(), distributed.get_world_size()
        if self.batch_size < processes:
            raise OptionError(
                f"A batch has {self.batch_size} images, and {processes} processes need one each. Use fewer devices, or "
                "raise batch_size if there are more images."
            )
        generator = np.random.default_rng([self.seed, self.epoch])
        for batch in self._batches(generator):
            draws = generator.integers(2**62, size=len(batch))
            yield [(int(batch[i]), int(draws[i])) for i in range(rank, len(batch), processes)]

    def images_of_ranks(self, processes: int) -> list[int]:
        """Return how many images of a batch each process has; if uneven, the first ones have one more."""
        return [len(range(rank, self.batch_size, processes)) for rank in range(processes)]

    @abstractmethod
    def _batches(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the image indices of each global batch of the epoch."""


class BatchSampler(GlobalBatches):
    """Batches of image indices: class-balanced if labels are given, else random.

    A class-balanced batch has ``batch_size / images_per_class`` classes, rounded down, drawn in shuffled rounds so that
    all classes come equally often. They share the batch evenly, each with the next of its shuffled images; an image is
    repeated in a batch only if its class has too few.

    Args:
        count: number of images.
        labels: int64 ``(count,)``, or None for random batches.
        batch_size: images in a global batch, over all processes.
        images_per_class: images of each class in a batch, at least 1; more if there are too few classes.
        seed: seed of all draws.
    """

    def __init__(
        self, count: int, labels: np.ndarray | None, batch_size: int, images_per_class: int = 2, seed: int = 0
    ):
        if batch_size < 2:
            raise OptionError(f"batch_size is {batch_size}; pairs of images need at least 2.")
        if not 1 <= images_per_class <= batch_size:
            raise OptionError(f"images_per_class is {images_per_class}; it must lie in 1..batch_size ({batch_size}).")
        super().__init__(count, batch_size, seed)
        self._images_of: list[np.ndarray] = []
        if labels is not None:
            self._images_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            self.classes_per_batch = min(max(self.batch_size // images_per_class, 1), len(self._images_of))

    def _batches(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        return self._balanced(generator) if self._images_of else self._random(generator)

    def _random(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        order = generator.permutation(self.count)
        for start in range(len(self)):
            yield order[start * self.batch_size : (start + 1) * self.batch_size]

    def _balanced(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        classes = _Rounds(range(len(self._images_of)), generator)
        images = [_Rounds(members.tolist(), generator) for members in self._images_of]
        share, remainder = divmod(self.batch_size, self.classes_per_batch)
        for _ in range(len(self)):
            batch: list[int] = []
            for place, label in enumerate(classes.take(self.classes_per_batch)):
                batch += images[label].take(share + (place < remainder))
            yield np.array(batch)


class DenseTripletSampler(GlobalBatches):
    """Batches of an anchor, the images whose labels are nearest to the anchor's, and others drawn at random.

    Dense triplet mining of Kim et al., "Deep Metric Learning Beyond Binary Supervision" (arXiv:1904.09626), section
    4.2: every two images of the batch form a triplet with the anchor. The anchor comes first in the global batch, and
    so in the joined rows of all processes, which share one anchor. Anchors are drawn in shuffled rounds over all
    images, which continue from epoch to epoch; no image is repeated in a batch.

    Args:
        labels: continuous labels of the images.
        batch_size: images in a global batch, over all processes, at least 3.
        neighbours: how many of them have the nearest labels, ties broken at random; 1..batch_size - 2.
        seed: seed of all draws.
    """

    def __init__(self, labels: ContinuousLabels, batch_size: int, neighbours: int = 5, seed: int = 0) -> None:
        super().__init__(len(labels), batch_size, seed)
        if self.batch_size < 3:
            raise OptionError(
                f"batch_size is {batch_size}, and there are {len(labels)} images; an anchor and two others need 3."
            )
        if not 1 <= neighbours <= self.batch_size - 2:
            raise OptionError(
                f"neighbours is {neighbours}; it must lie in 1..{self.batch_size - 2}, so that a batch of "
                f"{self.batch_size} has others too."
            )
        self.labels = labels
        self.neighbours = neighbours

    def _batches(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        anchors = self._anchors()
        order = generator.permutation(self.count)  # breaks ties at random
        nearest = order[self.labels.nearest(anchors, order, self.neighbours, exclude=np.argsort(order)[anchors])]
        for anchor, near in zip(anchors, nearest, strict=True):
            chosen = np.concatenate([[anchor], near])
            others = np.delete(np.arange(self.count), chosen)
            yield np.concatenate([chosen, generator.choice(others, self.batch_size - len(chosen), replace=False)])

    def _anchors(self) -> np.ndarray:
        """Return the anchors of this epoch; its number determines where the rounds stand."""
        turns = np.arange(self.epoch * len(self), (self.epoch + 1) * len(self))
        rounds = {turn: self._round(turn) for turn in np.unique(turns // self.count).tolist()}
        return np.array([rounds[turn // self.count][turn % self.count] for turn in turns.tolist()])

    def _round(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, number, _ROUNDS]).permutation(self.count)


class _Rounds:
    """An endless supply of values, each round in a new order; values taken together differ if there are enough."""

    def __init__(self, values: Sequence[int], generator: np.random.Generator) -> None:
        self._values = values
        self._generator = generator
        self._round: list[int] = []
        self._early: list[int] = []  # values of the next round that came up while already in the current take

    def take(self, count: int) -> list[int]:
        everything, count = divmod(count, len(self._values))
        taken, self._early = self._early[:count], self._early[count:]
        while len(taken) < count:
            if not self._round:
                self._round = self._generator.permutation(self._values).tolist()
            value = self._round.pop()
            (self._early if value in taken else taken).append(value)
        return [*self._values] * everything + taken
