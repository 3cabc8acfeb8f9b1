"""Distances and directions between the embeddings of a batch, with finite gradients where embeddings coincide."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"
_WITHOUT_FLOAT64 = ("mps",)
_ROWS = 1024  # rows of the matrix that are float64 at a time
_SMALLEST_SCALE = 1e-12  # a batch whose mean distance is below this has collapsed


def full_precision(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32, or in float64 if the student is float64; the teacher is detached."""
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    return student.to(dtype), teacher.detach().to(dtype)


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """Return the Euclidean distances between all rows.

    Equal rows have distance exactly 0 and get no gradient from each other, and so do rows whose distance is below about
    1e-7 of their distance to the mean row. Gradients of rows near each other lose precision: in float32 two digits are
    left if rows differ by a thousandth of the batch's extent.

    Args:
        embeddings: float32 or float64 ``(N, D)``.

    Returns:
        ``(N, N)``, the diagonal 0.
    """
    distances: Tensor = _PairwiseDistances.apply(embeddings)
    return distances


@torch.no_grad()
def squared_distances(embeddings: Tensor) -> Tensor:
    """Return the squared Euclidean distances between all rows, like pairwise_distances but without a gradient.

    Args:
        embeddings: float32 or float64 ``(N, D)``.

    Returns:
        ``(N, N)``, the diagonal 0.
    """
    if embeddings.dtype == torch.float64 or embeddings.device.type in _WITHOUT_FLOAT64:
        return torch.cdist(embeddings, embeddings, compute_mode=_BY_DIFFERENCES).square_()
    # A matrix product is many times as fast as differences. In float32 it would lose near pairs; float64 resolves
    # whatever float32 inputs can represent, and costs less than the passes over N x N that follow.
    rows = embeddings.double()
    rows = rows - rows.mean(dim=0)
    rounding = torch.finfo(torch.float64).eps * (4 + math.sqrt(rows.shape[1]))  # of a product, relative to the squares
    squares = rows.square().sum(dim=1) * (1 - rounding)  # so that equal rows give a value below 0, clamped to 0
    squared = embeddings.new_empty(len(rows), len(rows))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        products = torch.addmm(squares, rows[part], rows.T, alpha=-2)
        squared[part] = products.add_(squares[part, None]).clamp_(min=0)
    return squared.fill_diagonal_(0)


def relative_distances(embeddings: Tensor) -> Tensor:
    """Return distances divided by their row's mean, which includes the zero diagonal and is part of the graph.

    If all embeddings coincide, the distances are 0 and so are their gradients.

    Args:
        embeddings: float32 or float64 ``(N, D)``.

    Returns:
        ``(N, N)``, the diagonal 0.
    """
    distances = pairwise_distances(embeddings)
    return distances / distances.mean(dim=1, keepdim=True).clamp(min=_SMALLEST_SCALE)


class _PairwiseDistances(torch.autograd.Function):
    """Distances whose gradient is a matrix product; the gradient of torch's cdist holds N x N x D numbers on a GPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        distances = squared_distances(embeddings).sqrt()  # in place, torch 2.11 compiles it to a gradient of 0
        ctx.save_for_backward(embeddings, distances)
        return distances

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # d ||x_i - x_j|| / d x_i = (x_i - x_j) / ||x_i - x_j||; centring reduces cancellation between the two terms.
        embeddings, distances = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        centred = embeddings - embeddings.mean(dim=0)
        weights = (gradient + gradient.T) / distances.masked_fill(distances == 0, torch.inf)
        return weights.sum(dim=1, keepdim=True) * centred - weights @ centred
