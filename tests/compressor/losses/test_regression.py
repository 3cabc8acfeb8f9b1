"""Regression onto the teacher, and a kernel width fitted to it, against hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compressor.losses.regression import RegressionLoss
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from compressor.teacher_sample import fitted_sigma
from zoo.errors import OptionError
from zoo.retrieval.projection import principal_directions


def orthogonal_classes() -> torch.Tensor:
    """Return 200 vectors of 100 classes at right angles, as Proxy-Anchor leaves them."""
    return torch.eye(100).repeat_interleave(2, dim=0)


def test_sigma_is_the_published_one_for_orthogonal_classes() -> None:
    """All but 1 of 199 pairs are at a squared distance of 2, so exp(-2 / sigma) must be close to exp(-2)."""
    weight = (math.exp(-2) * 199 - 1) / 198  # of the pairs of two classes; the pair of one class weighs 1
    assert fitted_sigma(orthogonal_classes()) == pytest.approx(-2 / math.log(weight), rel=1e-6)
    assert fitted_sigma(orthogonal_classes()) == pytest.approx(1, abs=0.03)


def test_sigma_follows_a_narrow_cone() -> None:
    """Vectors in a narrow cone: a random pair weighs exp(-2) with the fitted width, and nearly 1 with the published."""
    generator = torch.Generator().manual_seed(0)
    cone = torch.randn(300, 16, generator=generator) + 8
    directions = torch.nn.functional.normalize(cone.double(), dim=1)
    pairs = torch.pdist(directions).square()
    assert float(torch.exp(-pairs / fitted_sigma(cone)).mean()) == pytest.approx(math.exp(-2), rel=1e-4)
    assert float(torch.exp(-pairs).mean()) > 0.9


def test_sigma_auto_gives_the_loss_of_that_sigma() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(20, 4, generator=generator), torch.randn(20, 9, generator=generator) + 3
    automatic = RelaxedContrastiveLoss(sigma="auto", student_dim=4, teacher_sample=lambda: teacher)
    assert automatic.sigma == pytest.approx(fitted_sigma(teacher))
    fixed = RelaxedContrastiveLoss(sigma=automatic.sigma)
    assert torch.equal(automatic(student, teacher), fixed(student, teacher))


def test_regression_is_one_minus_the_mean_cosine() -> None:
    teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = RegressionLoss(student_dim=2, teacher_sample=lambda: teacher)
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(loss(student, teacher)) == pytest.approx((0 + 1 - 0.5**0.5) / 2, abs=1e-6)


def test_regression_goes_through_the_principal_directions() -> None:
    sample = torch.randn(50, 6, generator=torch.Generator().manual_seed(2)) * torch.tensor([5.0, 4, 3, 1, 1, 1])
    loss = RegressionLoss(student_dim=3, teacher_sample=lambda: sample)
    targets = sample.numpy() @ principal_directions(sample.numpy(), 3).T
    assert float(loss(torch.from_numpy(7 * targets), sample)) == pytest.approx(0, abs=1e-6)
    assert np.allclose(np.linalg.norm(loss.targets(sample).numpy(), axis=1), 1, atol=1e-5)


def test_regression_is_added_as_often_as_asked() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(12, 4, generator=generator), torch.randn(12, 8, generator=generator)
    both = RelaxedContrastiveLoss(regression=3.0, student_dim=4, teacher_sample=lambda: teacher)
    expected = RelaxedContrastiveLoss()(student, teacher) + 3 * RegressionLoss(4, lambda: teacher)(student, teacher)
    assert float(both(student, teacher)) == pytest.approx(float(expected), rel=1e-6)


def test_more_dimensions_than_the_teacher_are_refused() -> None:
    with pytest.raises(OptionError, match="cannot fill the student's 9"):
        RegressionLoss(student_dim=9, teacher_sample=lambda: torch.randn(10, 4))


@pytest.mark.parametrize("sigma", ["automatic", 0, -1.0])
def test_other_widths_are_refused(sigma: float | str) -> None:
    with pytest.raises(OptionError, match="sigma"):
        RelaxedContrastiveLoss(sigma=sigma, student_dim=2, teacher_sample=lambda: torch.randn(5, 2))
