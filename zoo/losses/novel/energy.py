"""Energy distance between classes of embeddings: Székely and Rizzo, "Energy statistics", JSPI 2013."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SMOOTHING = 1e-4  # added to squared distances; gradients fade out below its root, 0.01


def energy_distances(first: Tensor, first_labels: Tensor, second: Tensor, second_labels: Tensor) -> Tensor:
    """Return the energy distance between each class of ``first`` and each class of ``second``.

    With x, x' different samples of one class, y, y' different samples of the other, and d(x, y) the distance:

        E = 2 mean d(x, y) - mean d(x, x') - mean d(y, y')

    Its expectation is 0 if the two distributions are equal, and positive otherwise. Since the means are over pairs of
    different samples, E and its gradient are unbiased however few samples there are; so E may be negative. The
    empirical Wasserstein distance and distances derived from it are biased: fitted to a handful of samples, they give
    too narrow a distribution (Bellemare et al., arXiv:1705.10743). A class of one sample counts as having no spread;
    that biases the gradient only if the gradient flows to that class.

    d is the Euclidean distance smoothed to sqrt(d^2 + 1e-4) - 0.01. This keeps the gradient of equal samples finite and
    the properties above, since it is of negative type too. Memory is O(N M).

    Args:
        first: float32 or float64 ``(N, D)``, L2-normalised.
        first_labels: int64 ``(N,)`` with C different values.
        second: ``(M, D)``, like ``first``.
        second_labels: int64 ``(M,)`` with C' different values.

    Returns:
        ``(C, C')``, rows and columns in ascending order of the labels.
    """
    rows, columns = _shares(first_labels, first.dtype), _shares(second_labels, second.dtype)
    between = rows @ _distances(first, second) @ columns.T
    return 2 * between - spreads(first, first_labels)[:, None] - spreads(second, second_labels)[None, :]


def spreads(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the mean distance, as in :func:`energy_distances`, between two different samples of each class.

    Args:
        embeddings: float32 or float64 ``(N, D)``, L2-normalised.
        labels: int64 ``(N,)`` with C different values.

    Returns:
        ``(C,)``, in ascending order of the labels; 0 for a class of one sample.
    """
    shares = _shares(labels, embeddings.dtype)
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    distances = _distances(embeddings, embeddings).masked_fill(itself, 0)
    of_all_pairs = ((shares @ distances) * shares).sum(dim=1)
    counts = (shares > 0).sum(dim=1)
    return of_all_pairs * counts / (counts - 1).clamp(min=1)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    squared = (2 - 2 * first @ second.T).clamp(min=0)
    return torch.sqrt(squared + _SMOOTHING) - _SMOOTHING**0.5


def _shares(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``(C, N)``: 1 / class size for the samples of a class, else 0."""
    _, classes = labels.unique(return_inverse=True)
    members = functional.one_hot(classes).T.to(dtype)
    return members / members.sum(dim=1, keepdim=True)
