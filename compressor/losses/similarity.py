"""Match similarities to the teacher's, after subtracting the teacher's common direction.

The squared difference of two matrices of cosines, as in Tung and Mori, "Similarity-Preserving Knowledge Distillation",
ICCV 2019, arXiv:1907.09682. The centring, and the equal weight of all pairs, are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision
from compressor.teacher_sample import TeacherSample
from zoo.arguments import require_above
from zoo.losses.directions import unit


class SimilarityLoss(nn.Module):
    """Matches the cosine of two images to that of the teacher's centred embeddings.

    With s the teacher's embeddings, L2-normalised, m their mean over training images, and t the student's:

        L = weight / (n (n - 1)) sum_{i != j} (cos(t_i, t_j) - cos(s_i - m, s_j - m))^2

    Features of a pretrained network lie in a narrow cone, where all cosines are near 1. After centring, images that
    have nothing in common are orthogonal. Memory is O(N^2).

    Args:
        teacher_sample: returns the teacher's embeddings of some training images.
        weight: weight of the loss, above 0.

    Raises:
        OptionError: the weight is not above 0.
    """

    metric = "cosine"
    centre: Tensor

    def __init__(self, teacher_sample: TeacherSample, weight: float = 10.0) -> None:
        super().__init__()
        require_above(0, weight=weight)
        self.weight = weight
        self.register_buffer("centre", unit(teacher_sample()).mean(dim=0))

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: ignored.

        Returns:
            float scalar, from 0 to 4 times the weight.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            own = unit(student)
            other = unit(unit(teacher) - self.centre.to(teacher))
            differences = own @ own.T - other @ other.T
            # The diagonal adds nothing: both have a cosine of 1 there.
            pairs = max(len(student) * (len(student) - 1), 1)
            return self.weight * differences.square().sum() / pairs
