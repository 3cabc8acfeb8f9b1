"""Attention transfer: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.feature_maps import to_smaller
from compressor.losses.distances import full_precision
from zoo.arguments import require_above, require_at_least
from zoo.losses.directions import unit
from zoo.losses.proxy_anchor import ProxyAnchorLoss


class AttentionTransferLoss(nn.Module):
    """Matches where in the image features are large to the teacher's, while the labels train the embedding.

        L = weight * attention_transfer(student maps, teacher maps) + label_weight * Proxy-Anchor(student, labels)

    The paper's beta is 1000 divided by the number of images and positions, a division that the mean contains here; its
    1/2 is left out. The paper adds the term to a classification loss. With Proxy-Anchor instead it is the baseline of
    "Embedding Transfer with Label Relaxation" (CVPR 2021), whose authors' code gives Proxy-Anchor the weight 1.

    Memory is that of the maps, in float32, plus O(N C) for C classes.

    Args:
        num_classes: classes C, one proxy each.
        student_dim: dimensions of the student's embedding.
        weight: weight of the attention maps, 0 or more.
        label_weight: weight of Proxy-Anchor, above 0, since nothing else trains the embedding.

    Raises:
        OptionError: a weight is out of its range.
    """

    metric = "cosine"

    def __init__(self, num_classes: int, student_dim: int, weight: float = 1000.0, label_weight: float = 1.0) -> None:
        super().__init__()
        require_at_least(0, weight=weight)
        require_above(0, label_weight=label_weight)
        self.weight = weight
        self.label_weight = label_weight
        self.proxy_anchor = ProxyAnchorLoss(num_classes, student_dim)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        image_ids: Tensor | None,
        labels: Tensor,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
    ) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ignored.
            image_ids: ignored.
            labels: int64 ``(N,)``.
            student_maps: ``(N, C, H, W)`` for each stage.
            teacher_maps: ``(N, C', H', W')`` for each stage.

        Returns:
            float scalar.
        """
        by_labels: Tensor = self.proxy_anchor(student, labels)
        return self.label_weight * by_labels + self.weight * attention_transfer(student_maps, teacher_maps)


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the difference of attention maps (eq. 2), summed over stages.

    With Q the map of the channels' mean squares, flattened and divided by its L2 norm, the loss of a stage is the mean
    over images and positions of (Q_student - Q_teacher)^2. Our addition: mean squares of different size are first
    averaged to the smaller size.

    Args:
        student: feature maps ``(N, C, H, W)`` for each stage.
        teacher: feature maps ``(N, C', H', W')`` of the same stages.

    Returns:
        float scalar.
    """
    return torch.stack([_stage_loss(*maps) for maps in zip(student, teacher, strict=True)]).sum()


def _stage_loss(student: Tensor, teacher: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = full_precision(student, teacher)
        student, teacher = to_smaller(_mean_squares(student), _mean_squares(teacher))
        return functional.mse_loss(unit(student.flatten(1)), unit(teacher.flatten(1)))


def _mean_squares(maps: Tensor) -> Tensor:
    return maps.square().mean(dim=1, keepdim=True)
