"""Regression onto the teacher's vector: the simplest embedding transfer, and the one that asymmetric search needs.

As in Budnik and Avrithis, "Asymmetric Metric Learning for Knowledge Transfer", CVPR 2021, arXiv:2006.16331 (their
"regression", by cosine).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision
from compressor.teacher_sample import TeacherSample, projection_to
from zoo.losses.directions import unit


class RegressionLoss(nn.Module):
    """Aligns each embedding with the direction of the teacher's, projected to the student's dimensions.

        L = 1/n sum_i (1 - cos(t_i, P s_i))

    with t the student's embeddings, s the teacher's, L2-normalised, and P the principal directions of the teacher's
    embeddings of training images, or the identity if both have the same number of dimensions.

    Args:
        student_dim: dimensions D of the student.
        teacher_sample: returns the teacher's embeddings of some training images.

    Raises:
        OptionError: the student has more dimensions than the teacher.
    """

    metric = "cosine"
    projection: Tensor

    def __init__(self, student_dim: int, teacher_sample: TeacherSample) -> None:
        super().__init__()
        self.register_buffer("projection", projection_to(teacher_sample(), student_dim))

    def targets(self, teacher: Tensor) -> Tensor:
        """Return the target directions, ``(N, D)`` of length 1, for the teacher's embeddings ``(N, D')``."""
        return unit(unit(teacher) @ self.projection.T.to(teacher))

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Return the loss, a float scalar in [0, 2].

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: ignored.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            return (1 - (unit(student) * self.targets(teacher)).sum(dim=1)).mean()
