"""Similarities to the teacher, against hand-worked numbers and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.losses.similarity import SimilarityLoss
from zoo.errors import OptionError


def test_similarity_is_the_mean_squared_difference_of_cosines() -> None:
    """The teacher's two directions are opposite from their centre; the student's are at right angles: (0 + 1)^2."""
    teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = SimilarityLoss(lambda: teacher, weight=3.0)
    assert float(loss(torch.eye(2), teacher)) == pytest.approx(3, abs=1e-6)
    assert float(loss(torch.tensor([[1.0, 0.0], [-4.0, 0.0]]), teacher)) == pytest.approx(0, abs=1e-6)


def test_similarity_agrees_with_a_loop_over_pairs() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(7, 3)), generator.normal(size=(7, 5)) + 2
    sample = generator.normal(size=(30, 5)) + 2

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    centre = np.mean([row / np.linalg.norm(row) for row in sample], axis=0)
    seen = [row / np.linalg.norm(row) - centre for row in teacher]
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = np.mean([(cosine(student[i], student[j]) - cosine(seen[i], seen[j])) ** 2 for i, j in pairs])
    loss = SimilarityLoss(lambda: torch.from_numpy(sample), weight=1.0)
    assert float(loss(torch.from_numpy(student), torch.from_numpy(teacher))) == pytest.approx(expected, rel=1e-6)


def test_similarity_of_a_cone_is_seen_from_its_centre() -> None:
    """A common direction that all of the teacher's vectors share changes what a student learns next to nothing."""
    generator = torch.Generator().manual_seed(0)
    student, spread = torch.randn(50, 4, generator=generator), torch.randn(50, 8, generator=generator)
    spread -= spread.mean(dim=0)
    far = spread + torch.tensor([1000.0, *[0.0] * 7])
    seen = torch.nn.functional.normalize(spread[:, 1:], dim=1)  # along the cone's axis all lie alike
    own = torch.nn.functional.normalize(student, dim=1)
    pairs = ~torch.eye(50, dtype=torch.bool)
    expected = (own @ own.T - seen @ seen.T)[pairs].square().mean()
    assert float(SimilarityLoss(lambda: far, weight=1.0)(student, far)) == pytest.approx(float(expected), rel=2e-2)


def test_similarity_needs_a_weight() -> None:
    with pytest.raises(OptionError, match="weight"):
        SimilarityLoss(lambda: torch.randn(5, 2), weight=0)
