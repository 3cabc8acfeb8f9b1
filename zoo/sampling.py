"""Which images make a batch. The same seed and epoch give the same batches, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from zoo.errors import OptionError

Draw = tuple[int, int]
"""Index of an image, and a seed for its augmentation."""


class BatchSampler(Sampler[list[Draw]]):
    """Batches of image indices: class-balanced where labels are given, else random.

    Class-balanced means ``batch_size / images_per_class`` classes, rounded down, drawn in shuffled rounds so that all
    classes come equally often. They share the batch evenly, each with the next of its shuffled images; an image comes
    twice in a batch only if its class has too few. With several processes every one draws the same global batch and
    yields its own part of it, so that the objective does not depend on their number.

    Args:
        count: number of images.
        labels: int64 ``(count,)``, or None for random batches.
        batch_size: images in a global batch, over all processes.
        images_per_class: images of each class in a batch, at least 1; more come where there are too few classes.
        seed: of all draws.
    """

    def __init__(
        self, count: int, labels: np.ndarray | None, batch_size: int, images_per_class: int = 2, seed: int = 0
    ):
        if batch_size < 2:
            raise OptionError(f"batch_size is {batch_size}; pairs of images need at least 2.")
        if not 1 <= images_per_class <= batch_size:
            raise OptionError(f"images_per_class is {images_per_class}; it must lie in 1..batch_size ({batch_size}).")
        self.count = count
        self.batch_size = min(batch_size, count)
        self.seed = seed
        self.epoch = 0
        self._images_of: list[np.ndarray] = []
        if labels is not None:
            self._images_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            self.classes_per_batch = min(max(self.batch_size // images_per_class, 1), len(self._images_of))

    @property
    def sampler(self) -> BatchSampler:
        """Return itself: Lightning looks here for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields (called by Lightning)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.count // self.batch_size, 1)

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, processes = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            rank, processes = distributed.get_rank(), distributed.get_world_size()
        generator = np.random.default_rng([self.seed, self.epoch])
        indices = self._balanced(generator) if self._images_of else self._random(generator)
        for batch in indices:
            draws = generator.integers(2**62, size=len(batch))
            local = range(rank, len(batch) - len(batch) % processes, processes)
            yield [(int(batch[i]), int(draws[i])) for i in local]

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


class _Rounds:
    """Values for ever, each round in a new order; those taken together differ if there are enough of them."""

    def __init__(self, values: Sequence[int], generator: np.random.Generator) -> None:
        self._values = values
        self._generator = generator
        self._round: list[int] = []
        self._early: list[int] = []  # whose turn of the next round came when they had just been taken

    def take(self, count: int) -> list[int]:
        everything, count = divmod(count, len(self._values))
        taken, self._early = self._early[:count], self._early[count:]
        while len(taken) < count:
            if not self._round:
                self._round = self._generator.permutation(self._values).tolist()
            value = self._round.pop()
            (self._early if value in taken else taken).append(value)
        return [*self._values] * everything + taken
