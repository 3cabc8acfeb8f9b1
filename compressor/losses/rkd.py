"""Relational knowledge distillation: Park et al., CVPR 2019, arXiv:1904.05068."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from compressor.losses.distances import full_precision, pairwise_distances
from zoo.arguments import require_above, require_at_least
from zoo.losses.directions import unit

_ANCHORS = 8  # anchors at a time, each with N x N angles


class RKDLoss(nn.Module):
    """Matches the distances between pairs and the angles within triplets to the teacher's.

    With psi(i, j) the Euclidean distance divided by the mean distance of all pairs, and phi(i, j, k) the cosine of the
    angle at k between i and j, both over L2-normalised embeddings s of the teacher and raw embeddings t of the student:

        L = distance_weight * mean_{i, j} smooth_l1(psi_t(i, j) - psi_s(i, j))
          + angle_weight * mean_{i, j, k} smooth_l1(phi_t(i, j, k) - phi_s(i, j, k))

    The means include the zeros at i = j and k = i, and the cosine at coinciding points is 0. The N^3 angles are
    computed for a few anchors k at a time, and again for the gradient, so memory is O(N^2 + N D).

    Args:
        distance_weight: weight of the distance term, 0 or more.
        angle_weight: weight of the angle term, 0 or more.

    Raises:
        OptionError: a weight is below 0, or both are 0.
    """

    metric = "euclidean"

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0) -> None:
        super().__init__()
        require_at_least(0, distance_weight=distance_weight, angle_weight=angle_weight)
        require_above(0, **{"distance_weight + angle_weight": distance_weight + angle_weight})
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: ignored.

        Returns:
            float scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            teacher = unit(teacher)
            loss = student.new_zeros(())
            if self.distance_weight:
                loss = loss + self.distance_weight * _distance_term(student, teacher)
            if self.angle_weight:
                loss = loss + self.angle_weight * _angle_term(student, teacher)
            return loss


def _distance_term(student: Tensor, teacher: Tensor) -> Tensor:
    return functional.smooth_l1_loss(_scaled_distances(student), _scaled_distances(teacher))


def _scaled_distances(embeddings: Tensor) -> Tensor:
    """Return ``(N, N)`` distances divided by their mean over all pairs of two images."""
    distances = pairwise_distances(embeddings)
    mean = distances.sum() / max(len(distances) * (len(distances) - 1), 1)
    return distances / mean.clamp(min=1e-12)


def _angle_term(student: Tensor, teacher: Tensor) -> Tensor:
    count = len(student)
    total = student.new_zeros(())
    for start in range(0, count, _ANCHORS):
        block = slice(start, start + _ANCHORS)
        block_total: Tensor = checkpoint(
            _angle_differences, student, teacher, block, use_reentrant=False, preserve_rng_state=False
        )
        total = total + block_total
    return total / max(count, 1) ** 3


def _angle_differences(student: Tensor, teacher: Tensor, anchors: slice) -> Tensor:
    """Return the summed smooth L1 difference of the angles at a block of anchors."""
    return functional.smooth_l1_loss(_angles(student, anchors), _angles(teacher, anchors), reduction="sum")


def _angles(embeddings: Tensor, anchors: slice) -> Tensor:
    """Return the cosines ``(K, N, N)`` of the angles at K anchors between all pairs."""
    directions = unit(embeddings[None, :, :] - embeddings[anchors, None, :])
    return directions @ directions.transpose(1, 2)
