"""Embedding-transfer losses against the papers' reference values, naive loops, and the limits of precision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.losses import LOSSES
from compressor.losses.attention import AttentionTransferLoss
from compressor.losses.darkrank import DarkRankLoss
from compressor.losses.distances import pairwise_distances, relative_distances, unit
from compressor.losses.pkt import PKTLoss
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from compressor.losses.relaxed_multi_similarity import RelaxedMultiSimilarityLoss
from compressor.losses.rkd import RKDLoss
from zoo.errors import OptionError
from zoo.losses import create_loss

REFERENCE = json.loads((Path(__file__).parents[1] / "reference_losses.json").read_text())


def reference(name: str) -> Tensor:
    return torch.tensor(REFERENCE[name], dtype=torch.float64)


def random(n: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_gradient(loss: Callable[..., Tensor], student: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, *rest)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


# --- the papers' values ---


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("relaxed_contrastive_sigma1_delta1", RelaxedContrastiveLoss()),
        ("relaxed_contrastive_sigma0.5_delta1.2", RelaxedContrastiveLoss(sigma=0.5, delta=1.2)),
        ("rkd_distance", RKDLoss(distance_weight=1, angle_weight=0)),
        ("rkd_angle", RKDLoss(distance_weight=0, angle_weight=1)),
        ("pkt", PKTLoss()),
        ("hard_darkrank_without_triplet_alpha3_beta3_permute4", DarkRankLoss(alpha=3, beta=3, permute_length=4)),
    ],
)
def test_reference_value_and_gradient(name: str, loss: nn.Module) -> None:
    expected = REFERENCE["values"][name]
    value, gradient = value_and_gradient(loss, reference("student"), reference("teacher"))
    assert value.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert gradient.norm().item() == pytest.approx(expected["grad_norm"], abs=1e-6)
    assert gradient[0].tolist() == pytest.approx(expected["grad_row0"], abs=1e-6)


def test_attention_transfer_reference() -> None:
    student, teacher = reference("student_map"), reference("teacher_map")
    expected = REFERENCE["values"]["attention_transfer"]["loss"]
    assert AttentionTransferLoss()(student, teacher).item() == pytest.approx(expected, abs=1e-6)


# --- naive loops, straight from the formulas ---


def similarity(teacher: Tensor, sigma: float) -> Callable[[int, int], Tensor]:
    s = normalize(teacher)
    return lambda i, j: torch.exp(-((s[i] - s[j]) ** 2).sum() / sigma)


def distance(x: Tensor, i: int, j: int) -> Tensor:
    return (x[i] - x[j]).pow(2).sum().sqrt() if i != j else x.new_zeros(())


def naive_relaxed_contrastive(student: Tensor, teacher: Tensor, sigma: float, delta: float) -> Tensor:
    n, w, total = len(student), similarity(teacher, sigma), student.new_zeros(())
    for i in range(n):
        mu = torch.stack([distance(student, i, k) for k in range(n)]).mean()
        for j in range(n):
            if i != j:
                d = distance(student, i, j) / mu
                total = total + w(i, j) * d**2 + (1 - w(i, j)) * torch.relu(delta - d) ** 2
    return total / n


def naive_relaxed_multi_similarity(
    student: Tensor, teacher: Tensor, ids: Tensor, sigma: float, delta: float, alpha: float, beta: float
) -> Tensor:
    n, w, total = len(student), similarity(teacher, sigma), student.new_zeros(())
    for i in range(n):
        mu = torch.stack([distance(student, i, k) for k in range(n)]).mean()
        pull, push = student.new_zeros(()), student.new_zeros(())
        for j in range(n):
            if i != j:
                d = distance(student, i, j) / mu
                w_ij = 1.0 if ids[i] == ids[j] else w(i, j)
                pull = pull + w_ij * torch.exp(alpha * d)
                push = push + (1 - w_ij) * torch.exp(beta * (delta - d))
        total = total + torch.log(1 + pull) / alpha + torch.log(1 + push) / beta
    return total / n


def huber(difference: Tensor) -> Tensor:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def naive_rkd(student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float) -> Tensor:
    n, spaces = len(student), (student, normalize(teacher))
    means = [sum(distance(x, i, j) for i in range(n) for j in range(n)) / (n * (n - 1)) for x in spaces]

    def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
        if k in (i, j):
            return x.new_zeros(())
        return (x[i] - x[k]) @ (x[j] - x[k]) / (distance(x, i, k) * distance(x, j, k))

    total = student.new_zeros(())
    for i in range(n):
        for j in range(n):
            a, b = (distance(x, i, j) / mean for x, mean in zip(spaces, means, strict=True))
            total = total + distance_weight * huber(a - b) / n**2
            for k in range(n):
                a, b = (angle(x, i, j, k) for x in spaces)
                total = total + angle_weight * huber(a - b) / n**3
    return total


def naive_pkt(student: Tensor, teacher: Tensor) -> Tensor:
    n, spaces = len(student), (normalize(teacher), normalize(student))
    total = student.new_zeros(())
    for i in range(n):
        kernels = [[(x[i] @ x[j] + 1) / 2 for j in range(n)] for x in spaces]
        for p, q in zip(*([k / sum(kernel) for k in kernel] for kernel in kernels), strict=True):
            total = total + p * torch.log((p + 1e-7) / (q + 1e-7))
    return total / n**2


def naive_darkrank(student: Tensor, teacher: Tensor, alpha: float, beta: float, length: int) -> Tensor:
    n, s, t = len(student), normalize(teacher), normalize(student)
    total = student.new_zeros(())
    for i in range(n):
        order = sorted((j for j in range(n) if j != i), key=lambda j: distance(s, i, j).item())[:length]
        scores = [torch.exp(-alpha * distance(t, i, j) ** beta) for j in order]
        for a in range(len(order)):
            total = total - torch.log(scores[a] / sum(scores[a:]))
    return total / n


IDS = torch.tensor([0, 1, 2, 0, 1, 3, 4, 2, 5])
NAIVE: list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = [
    (RelaxedContrastiveLoss(1, 1), lambda s, t: naive_relaxed_contrastive(s, t, 1, 1)),
    (RelaxedContrastiveLoss(0.3, 1.5), lambda s, t: naive_relaxed_contrastive(s, t, 0.3, 1.5)),
    (RelaxedMultiSimilarityLoss(), lambda s, t: naive_relaxed_multi_similarity(s, t, IDS, 1, 1, 1, 2)),
    (
        RelaxedMultiSimilarityLoss(0.5, 1.2, 2, 4),
        lambda s, t: naive_relaxed_multi_similarity(s, t, IDS, 0.5, 1.2, 2, 4),
    ),
    (RKDLoss(1, 2), lambda s, t: naive_rkd(s, t, 1, 2)),
    (PKTLoss(), naive_pkt),
    (DarkRankLoss(), lambda s, t: naive_darkrank(s, t, 3, 3, 4)),
    (DarkRankLoss(2, 1.5, 3), lambda s, t: naive_darkrank(s, t, 2, 1.5, 3)),
]


@pytest.mark.parametrize(("loss", "naive"), NAIVE)
@settings(max_examples=5, deadline=None)
@given(n=st.integers(2, 9), dim=st.integers(2, 5), scale=st.sampled_from([0.01, 1.0, 50.0]), seed=st.integers(0, 999))
def test_naive_loop(
    loss: nn.Module, naive: Callable[[Tensor, Tensor], Tensor], n: int, dim: int, scale: float, seed: int
) -> None:
    student, teacher = random(n, dim, seed, scale), random(n, 7, seed + 1000)
    value, gradient = value_and_gradient(loss, student, teacher, IDS[:n])
    expected, expected_gradient = value_and_gradient(naive, student, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient * scale, expected_gradient * scale, rtol=1e-8, atol=1e-9)


def test_attention_transfer_naive_loop_over_stages() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [((3, 4, 6, 5), (3, 2, 6, 5)), ((3, 8, 3, 2), (3, 8, 3, 2))]
    pairs = [tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shape) for shape in shapes]
    expected = 0.0
    for student, teacher in pairs:
        n, _, height, width = student.shape
        for image in range(n):
            maps = []
            for features in (student[image], teacher[image]):
                q = [(features[:, y, x] ** 2).mean().item() for y in range(height) for x in range(width)]
                maps.append([value / math.sqrt(sum(v * v for v in q)) for value in q])
            expected += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / (n * height * width)
    loss = AttentionTransferLoss()([s for s, _ in pairs], [t for _, t in pairs])
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_two_points_by_hand() -> None:
    # Orthogonal unit teachers: w = exp(-2). Two students at any distance: mu is half of it, so d = 2 > delta.
    student, teacher = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]])
    w = math.exp(-2)
    assert RelaxedContrastiveLoss()(student, teacher).item() == pytest.approx(4 * w)
    expected = math.log(1 + w * math.exp(2)) + 0.5 * math.log(1 + (1 - w) * math.exp(2 * (1 - 2)))
    assert RelaxedMultiSimilarityLoss()(student, teacher).item() == pytest.approx(expected)
    one_image = RelaxedMultiSimilarityLoss()(student, teacher, torch.tensor([7, 7]))
    assert one_image.item() == pytest.approx(math.log(1 + math.exp(2)))


# --- properties ---

NAMES = list(LOSSES)


def make(name: str) -> nn.Module:
    return create_loss(name, LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_permutation_invariance(name: str) -> None:
    student, teacher, ids = random(9, 4, 1), random(9, 6, 2), IDS
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    value, gradient = value_and_gradient(make(name), student, teacher, ids)
    permuted, permuted_gradient = value_and_gradient(make(name), student[order], teacher[order], ids[order])
    assert permuted.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(permuted_gradient, gradient[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_invariance_to_scale_of_both(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    value = make(name)(student, teacher)
    assert make(name)(1e3 * student, 1e-3 * teacher).item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("name", ["relaxed_contrastive", "relaxed_multi_similarity", "rkd"])
def test_student_is_not_normalised(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    value = make(name)(student, teacher).item()
    assert make(name)(student + 10, teacher).item() == pytest.approx(value, rel=1e-9)
    assert make(name)(normalize(student), teacher).item() != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", ["rkd", "pkt"])
def test_equal_spaces_are_the_minimum(name: str) -> None:
    teacher = normalize(random(9, 6, 2))
    value, gradient = value_and_gradient(make(name), teacher, teacher)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.norm().item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "relaxed_multi_similarity"])
def test_image_ids_are_ignored(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    assert make(name)(student, teacher, IDS).item() == make(name)(student, teacher).item()


@pytest.mark.parametrize("name", NAMES)
def test_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = random(6, 4, 1).requires_grad_(), random(6, 4, 2).requires_grad_()
    make(name)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.norm() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    teacher = random(6, 5, 2)
    assert torch.autograd.gradcheck(lambda s: make(name)(s, teacher, IDS[:6]), random(6, 3, 1).requires_grad_())


def test_gradient_flows_through_mean_distance() -> None:
    # d is relative, so moving along the student itself (a change of scale) changes nothing.
    student, teacher = random(8, 4, 1), random(8, 6, 2)
    _, gradient = value_and_gradient(RelaxedContrastiveLoss(), student, teacher)
    assert (gradient * student).sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient.norm() > 1e-2


@pytest.mark.parametrize("option", [{"sigma": 0}, {"sigma": -1.0}, {"sigma": math.nan}])
def test_sigma_must_be_above_zero(option: dict[str, float]) -> None:
    for name in ("relaxed_contrastive", "relaxed_multi_similarity"):
        with pytest.raises(OptionError, match=r"sigma is .*above 0"):
            create_loss(name, LOSSES, **option)


# --- precision and degenerate batches ---


def degenerate(case: str) -> tuple[Tensor, Tensor]:
    student, teacher = random(8, 16, 1), random(8, 24, 2)
    if case == "duplicate rows":
        student[3], student[5] = student[0], student[1]
        teacher[3], teacher[4] = teacher[0], teacher[1]
    elif case == "batch of two":
        student, teacher = student[:2], teacher[:2]
    elif case == "one image":
        student, teacher = student[:1], teacher[:1]
    elif case == "all students identical":
        student = student[:1].expand(8, -1).clone()
    elif case == "all identical":
        student, teacher = student[:1].expand(8, -1).clone(), teacher[:1].expand(8, -1).clone()
    elif case == "zeros":
        student[2:] = 0
    elif case == "opposite":
        student, teacher = torch.cat([student[:4], -student[:4]]), torch.cat([teacher[:4], -teacher[:4]])
    elif case == "large":
        student, teacher = 200 * student, 200 * teacher
    return student, teacher


CASES = ["plain", "duplicate rows", "batch of two", "one image", "all students identical", "all identical", "zeros"]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("case", [*CASES, "opposite", "large"])
@pytest.mark.parametrize("name", NAMES)
def test_finite_and_as_in_float64(name: str, case: str, dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (x.to(dtype) for x in degenerate(case))
    ids = torch.arange(len(student)) // 2
    expected, expected_gradient = value_and_gradient(make(name), student.double(), teacher.double(), ids)
    loss = torch.autocast("cpu", torch.bfloat16, enabled=autocast)(make(name))
    value, gradient = value_and_gradient(loss, student, teacher, ids)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert expected.isfinite() and expected_gradient.isfinite().all()
    # The inputs are the same numbers, so only float32 arithmetic (and the rounding of the gradient) may differ.
    assert value.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("name", ["relaxed_contrastive", "relaxed_multi_similarity"])
def test_coinciding_students_get_no_gradient(name: str) -> None:
    student, teacher = degenerate("all students identical")
    _, gradient = value_and_gradient(make(name), student.float(), teacher.float())
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("seed", range(20))
def test_pkt_is_finite_where_cosines_round_below_minus_one(seed: int) -> None:
    student = random(1, 3000, seed).float()
    value, gradient = value_and_gradient(PKTLoss(), torch.cat([student, -student]), random(2, 8, seed))
    assert value.isfinite() and gradient.isfinite().all()


def test_attention_transfer_in_half_precision() -> None:
    student = 300 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    student[1] = 0
    teacher = reference("teacher_map").half()
    expected = AttentionTransferLoss()(student.half().double(), teacher)
    loss = torch.autocast("cpu", torch.bfloat16)(AttentionTransferLoss())
    value, gradient = value_and_gradient(loss, student.half(), teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient.isfinite().all()


def test_near_rows_far_from_the_origin_keep_their_distance_in_float32() -> None:
    base = random(4, 32, 0)
    points = torch.cat([base, base + 1e-4 * random(4, 32, 1)]).float() + 10
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pairwise_distances(points).double(), exact, rtol=1e-5, atol=0)


def test_distances_second_derivative() -> None:
    points = random(5, 3, 0).requires_grad_()
    assert torch.autograd.gradgradcheck(pairwise_distances, points)


def test_relative_distances_have_mean_one_with_the_diagonal() -> None:
    d = relative_distances(random(7, 3, 0))
    torch.testing.assert_close(d.mean(dim=1), torch.ones(7, dtype=torch.float64))
    assert (d.diagonal() == 0).all()


def test_unit_leaves_zero_alone() -> None:
    value, gradient = value_and_gradient(lambda x: unit(x).sum(), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert value.item() == pytest.approx(1.4)
    # d (x + y)/|(x, y)| = (y (y - x), x (x - y)) / |(x, y)|^3
    torch.testing.assert_close(gradient, torch.tensor([[4.0, -3.0], [0.0, 0.0]]) / 125)


# --- memory ---


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes, views of expansions aside."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_of_n_n_d(name: str) -> None:
    n, dim = (64, 512) if name == "rkd" else (256, 128)
    student, teacher = random(n, dim, 0).float().requires_grad_(), random(n, dim, 1).float()
    with LargestTensor() as seen:
        make(name)(student, teacher, torch.arange(n)).backward()
    anchors = 8 if name == "rkd" else 1
    assert n * n <= seen.largest <= anchors * n * max(n, dim)
    assert seen.largest < n * n * dim / 4


def test_angles_are_not_kept_for_the_gradient() -> None:
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    student, teacher = random(48, 16, 0).requires_grad_(), random(48, 16, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        RKDLoss()(student, teacher).backward()
    assert kept < 48**3 / 2


@pytest.mark.parametrize("name", NAMES)
def test_create_loss_knows_the_names(name: str) -> None:
    module, class_name = LOSSES[name].split(":")
    assert (type(make(name)).__module__, type(make(name)).__name__) == (module, class_name)
