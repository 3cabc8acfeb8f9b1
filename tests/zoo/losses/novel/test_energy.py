from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from zoo.losses.novel.energy import energy_distances, spreads


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=1)


def naive_distance(a: Tensor, b: Tensor) -> float:
    return math.sqrt(math.dist(a.tolist(), b.tolist()) ** 2 + 1e-4) - 0.01


def naive_spread(x: Tensor) -> float:
    n = len(x)
    pairs = [naive_distance(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
    return sum(pairs) / len(pairs) if pairs else 0.0


def naive_energy(x: Tensor, y: Tensor) -> float:
    between = sum(naive_distance(a, b) for a in x for b in y) / (len(x) * len(y))
    return 2 * between - naive_spread(x) - naive_spread(y)


@settings(max_examples=20, deadline=None)
@given(
    first=st.lists(st.sampled_from([0, 3, 7]), min_size=1, max_size=9),
    second=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=7),
    seed=st.integers(0, 999),
)
def test_naive_loop(first: list[int], second: list[int], seed: int) -> None:
    x, y = random(len(first), 4, seed=seed), random(len(second), 4, seed=seed + 1000)
    found = energy_distances(x, torch.tensor(first), y, torch.tensor(second))
    rows = [x[torch.tensor(first) == label] for label in sorted(set(first))]
    columns = [y[torch.tensor(second) == label] for label in sorted(set(second))]
    expected = torch.tensor([[naive_energy(a, b) for b in columns] for a in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(spreads(x, torch.tensor(first)), torch.tensor([naive_spread(a) for a in rows]).double())


def test_two_points_by_hand() -> None:
    # At right angles on the circle: d^2 = 2. Each class is one point, so neither has a spread.
    x, y, label = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    expected = 2 * (math.sqrt(2.0001) - 0.01)
    assert energy_distances(x, label, y, label).item() == pytest.approx(expected, rel=1e-6)


def test_unbiased_with_two_samples_of_each() -> None:
    # All pairs of samples of two small populations, equally often: the mean over draws is that over the populations.
    x, y = random(4, 3, seed=0), random(5, 3, seed=1)
    pair = torch.tensor([0, 0])
    drawn = [
        energy_distances(x[[i, j]], pair, y[[k, m]], pair).item()
        for i in range(4)
        for j in range(i)
        for k in range(5)
        for m in range(k)
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(naive_energy(x, y), rel=1e-9)


def test_zero_in_expectation_for_the_same_distribution_and_above_for_another() -> None:
    labels = torch.arange(200).repeat_interleave(3)
    same = energy_distances(random(600, 4, seed=0), labels, random(600, 4, seed=1), labels).diagonal()
    error = same.std() / len(same) ** 0.5
    assert abs(same.mean()) < 3 * error < 0.1
    narrow = normalize(random(600, 4, seed=1) + 2 * torch.eye(4, dtype=torch.float64)[0], dim=1)
    assert energy_distances(random(600, 4, seed=0), labels, narrow, labels).diagonal().mean() > 10 * error


def test_gradcheck_and_finite_gradients_of_equal_samples() -> None:
    labels, other = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 0, 1, 0])
    inputs = random(5, 3, seed=0).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    on_sphere = torch.autograd.gradcheck(
        lambda x, y: energy_distances(normalize(x, dim=1), labels, normalize(y, dim=1), other), inputs
    )
    assert on_sphere
    equal = random(1, 8, seed=2).float().expand(4, -1).clone().requires_grad_()
    distance = energy_distances(equal, torch.zeros(4), equal.detach(), torch.zeros(4))
    assert distance.item() == pytest.approx(0, abs=1e-4)
    (gradient,) = torch.autograd.grad(distance, equal)
    assert gradient.isfinite().all()
