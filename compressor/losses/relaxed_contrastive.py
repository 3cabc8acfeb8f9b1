"""Relaxed contrastive loss.

Kim et al., "Embedding Transfer with Label Relaxation for Improved Metric Learning", CVPR 2021, arXiv:2103.14908.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision, relative_distances, squared_distances
from compressor.losses.regression import RegressionLoss
from compressor.teacher_sample import RANDOM_WEIGHT, TeacherSample, fitted_sigma
from zoo.arguments import require_above, require_at_least
from zoo.errors import OptionError
from zoo.losses.directions import unit

log = logging.getLogger(__name__)

AUTO = "auto"


class RelaxedContrastiveLoss(nn.Module):
    """Pulls pairs together and pushes them apart, weighted by the teacher's similarity.

    With s the L2-normalised embeddings of the teacher, t those of the student, not normalised:

        w_ij = exp(-||s_i - s_j||^2 / sigma)
        d_ij = ||t_i - t_j|| / mu_i,  mu_i = 1/n sum_k ||t_i - t_k||
        L = 1/n sum_{i != j} w_ij d_ij^2 + (1 - w_ij) max(0, delta - d_ij)^2

    Memory is O(N^2).

    Args:
        sigma: width of the kernel of the teacher's similarity, above 0; or "auto" for the width at which a random pair
            of images has the weight exp(-2), as in the paper, whatever the teacher.
        delta: margin, relative to the mean distance.
        regression: weight of an added :class:`compressor.losses.regression.RegressionLoss`, 0 or more.
        student_dim: dimensions D of the student, for regression.
        teacher_sample: returns the teacher's embeddings of some training images, for "auto" and regression.

    Raises:
        OptionError: sigma is neither "auto" nor above 0, regression is below 0, or one of them lacks a teacher.
    """

    metric = "euclidean"

    def __init__(
        self,
        sigma: float | str = 1.0,
        delta: float = 1.0,
        regression: float = 0.0,
        student_dim: int | None = None,
        teacher_sample: TeacherSample | None = None,
    ) -> None:
        super().__init__()
        require_at_least(0, regression=regression)
        if sigma == AUTO or regression > 0:
            if teacher_sample is None or student_dim is None:
                raise OptionError("sigma auto and regression need a teacher to fit to. Use them in distill.")
            if sigma == AUTO:
                sigma = fitted_sigma(teacher_sample())
                log.info("sigma is %.3f: a random pair then has weight %.2f", sigma, RANDOM_WEIGHT)
        if isinstance(sigma, str):
            raise OptionError(f"sigma is {sigma!r}; it must be a number above 0, or auto.")
        require_above(0, sigma=sigma)
        self.sigma = sigma
        self.delta = delta
        self.regression = regression
        self.onto: RegressionLoss | None = None
        if regression > 0:
            assert teacher_sample is not None and student_dim is not None
            self.onto = RegressionLoss(student_dim, teacher_sample)

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
            similarity = torch.exp(-squared_distances(unit(teacher)) / self.sigma)
            distances = relative_distances(student)
            pull = similarity * distances.square()
            push = (1 - similarity) * (self.delta - distances).clamp(min=0).square()
            # The diagonal adds nothing: its similarity is 1 and its distance 0.
            loss = (pull + push).sum() / len(student)
            return loss if self.onto is None else loss + self.regression * self.onto(student, teacher)
