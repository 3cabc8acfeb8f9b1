"""What a loss derives from its teacher before training, given its embeddings of some training images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import OptionError
from zoo.losses.directions import unit
from zoo.retrieval.projection import principal_directions

TeacherSample = Callable[[], Tensor]
"""Returns the teacher's embeddings of some training images, float32 ``(N, D')``, not normalised."""
RANDOM_WEIGHT = math.exp(-2)
"""Relaxed label of a pair from two orthogonal classes with sigma 1, as in the paper's setting."""


def fitted_sigma(sample: Tensor) -> float:
    """Return the width of the kernel at which a random pair has weight exp(-2) on average.

    A teacher trained with Proxy-Anchor makes classes orthogonal, at a squared distance of 2: there this is near 1, the
    published width. Pretrained features lie in a narrow cone, where with sigma 1 all pairs would look alike.

    Args:
        sample: float ``(N, D')``, the teacher's embeddings of N >= 2 images.

    Returns:
        sigma, above 0.
    """
    directions = unit(sample.double())
    squared = (2 - 2 * directions @ directions.T).clamp(min=0)
    pairs = squared[~torch.eye(len(sample), dtype=torch.bool)]
    low, high = 1e-6, 1e3
    for _ in range(80):  # bisection: the mean weight grows with sigma
        middle = math.sqrt(low * high)
        low, high = (low, middle) if float(torch.exp(-pairs / middle).mean()) > RANDOM_WEIGHT else (middle, high)
    return low


def projection_to(sample: Tensor, dim: int) -> Tensor:
    """Return the principal directions of a teacher's embeddings, ``(dim, D')``; the identity if D' is ``dim``.

    Raises:
        OptionError: the teacher has fewer dimensions.
    """
    own = sample.shape[1]
    if dim > own:
        raise OptionError(
            f"Regression onto the teacher's {own} dimensions cannot fill the student's {dim}. Set dim to {own} or less."
        )
    if dim == own:
        return torch.eye(dim)
    return torch.from_numpy(principal_directions(sample.numpy(), dim))
