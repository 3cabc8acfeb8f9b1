"""Distances and directions between the embeddings of a batch, with finite gradients where embeddings coincide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_SMALLEST_SCALE = 1e-12  # a batch whose embeddings lie nearer to each other than this has collapsed


def full_precision(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32, or in float64 where the student is float64; the teacher without its gradient."""
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    return student.to(dtype), teacher.detach().to(dtype)


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """Return the Euclidean distances between all rows.

    Equal rows are at distance 0 exactly and get no gradient from each other. Near rows keep their precision, since the
    differences are taken before they are squared; that of their gradient falls as they near each other, in float32 to
    two digits where they differ by a thousandth of the batch's extent.

    Args:
        embeddings: float32 or float64 ``(N, D)``.

    Returns:
        ``(N, N)``, the diagonal 0.
    """
    distances: Tensor = _PairwiseDistances.apply(embeddings)
    return distances


def relative_distances(embeddings: Tensor) -> Tensor:
    """Return distances divided by their row's mean, which counts the zero diagonal and is part of the graph.

    Where all embeddings coincide, the distances are 0 and so are their gradients.

    Args:
        embeddings: float32 or float64 ``(N, D)``.

    Returns:
        ``(N, N)``, the diagonal 0.
    """
    distances = pairwise_distances(embeddings)
    return distances / distances.mean(dim=1, keepdim=True).clamp(min=_SMALLEST_SCALE)


class _PairwiseDistances(torch.autograd.Function):
    """cdist whose gradient is a matrix product: torch's own holds N x N x D numbers on a GPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(embeddings, distances)
        return distances

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # d ||x_i - x_j|| / d x_i = (x_i - x_j) / ||x_i - x_j||; centred, the two terms cancel less.
        embeddings, distances = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        centred = embeddings - embeddings.mean(dim=0)
        weights = (gradient + gradient.T) / distances.masked_fill(distances == 0, torch.inf)
        return weights.sum(dim=1, keepdim=True) * centred - weights @ centred
