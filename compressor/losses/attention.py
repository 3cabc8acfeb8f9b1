"""Attention transfer: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.losses.distances import full_precision, unit


class AttentionTransferLoss(nn.Module):
    """Keeps where in the image the teacher's features are large.

    With Q the map of the channels' mean squares, flattened and divided by its L2 norm, the loss of a stage is the mean
    over images and positions of (Q_student - Q_teacher)^2; the stages are summed.
    """

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the loss.

        Args:
            student: feature maps ``(N, C, H, W)``, of one stage or a list of stages.
            teacher: feature maps ``(N, C', H, W)`` of the same stages.

        Returns:
            float scalar.
        """
        students = [student] if isinstance(student, Tensor) else student
        teachers = [teacher] if isinstance(teacher, Tensor) else teacher
        return torch.stack([_stage_loss(*maps) for maps in zip(students, teachers, strict=True)]).sum()


def _stage_loss(student: Tensor, teacher: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = full_precision(student, teacher)
        return functional.mse_loss(_attention(student), _attention(teacher))


def _attention(features: Tensor) -> Tensor:
    """Return the L2-normalised attention map ``(N, H W)``."""
    return unit(features.square().mean(dim=1).flatten(1))
