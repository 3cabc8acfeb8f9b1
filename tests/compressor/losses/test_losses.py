"""Embedding-transfer losses against the papers' reference values, naive loops, and the limits of precision."""

from __future__ import annotations

import inspect
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
from compressor.losses.attention import AttentionTransferLoss, attention_transfer
from compressor.losses.crd import CRDLoss
from compressor.losses.darkrank import DarkRankLoss
from compressor.losses.distances import pairwise_distances, relative_distances, squared_distances
from compressor.losses.fitnet import FitNetLoss
from compressor.losses.pkt import PKTLoss
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from compressor.losses.relaxed_multi_similarity import RelaxedMultiSimilarityLoss
from compressor.losses.rkd import RKDLoss
from zoo.errors import OptionError
from zoo.losses import create_loss, find_loss
from zoo.losses.directions import unit
from zoo.losses.proxy_anchor import ProxyAnchorLoss

REFERENCE = json.loads((Path(__file__).parents[2] / "reference_losses.json").read_text())


def reference(name: str) -> Tensor:
    return torch.tensor(REFERENCE[name], dtype=torch.float64)


def random(n: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_gradient(loss: Callable[..., Tensor], student: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, *rest)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


NAMES = list(LOSSES)
OF_MAPS = ["fitnet", "attention"]
WITH_PROXIES = [*OF_MAPS, "crd"]


class Given:
    """A loss as a function of student, teacher and image ids, made at the first call; it is given all that it names.

    Maps are products of the embeddings with fixed patterns, so the gradient of the student's embedding shows all terms.
    """

    loss: nn.Module

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, options

    def __call__(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        image_ids = torch.arange(len(student)) if image_ids is None else image_ids
        if not hasattr(self, "loss"):
            facts = {
                "num_images": max(int(image_ids.max()) + 1, 7),
                "num_classes": 4,
                "student_dim": student.shape[1],
                "teacher_dim": teacher.shape[1],
                "teacher_sample": lambda: torch.randn(40, teacher.shape[1], generator=torch.Generator().manual_seed(5)),
                "student_channels": [student.shape[1]] * 2,
                "teacher_channels": [teacher.shape[1]] * 2,
            }
            taken = inspect.signature(find_loss(self.name, LOSSES)).parameters
            torch.manual_seed(0)
            facts = {name: fact for name, fact in facts.items() if name in taken}
            self.loss = create_loss(self.name, LOSSES, **facts, **self.options)
            if student.dtype == torch.float64:
                self.loss.double()
        named: dict[str, Any] = {}
        if "labels" in (taken := inspect.signature(self.loss.forward).parameters):
            named["labels"] = image_ids % 4
        if "student_maps" in taken:
            named["student_maps"] = maps_of(student, (4, 4), (2, 3))
            named["teacher_maps"] = maps_of(teacher, (8, 4), (2, 2))
        value: Tensor = self.loss(student, teacher, image_ids, **named)
        return value


def maps_of(embeddings: Tensor, *sizes: tuple[int, int]) -> list[Tensor]:
    # Powers of two, so that the products are exact in any precision.
    generator = torch.Generator().manual_seed(5)
    powers = [torch.randint(-2, 2, (embeddings.shape[1], *size), generator=generator) for size in sizes]
    return [embeddings[:, :, None, None] * (2.0**power).to(embeddings.dtype) for power in powers]


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
    student, teacher = [reference("student_map")], [reference("teacher_map")]
    expected = REFERENCE["values"]["attention_transfer"]["loss"]
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    loss = AttentionTransferLoss(num_classes=3, student_dim=4, weight=10, label_weight=2).double()
    embeddings, labels = random(len(student[0]), 4, 0), torch.arange(len(student[0])) % 3
    value = loss(embeddings, embeddings, None, labels, student, teacher)
    assert value.item() == pytest.approx(10 * expected + 2 * loss.proxy_anchor(embeddings, labels).item(), abs=1e-6)


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
    loss = attention_transfer([s for s, _ in pairs], [t for _, t in pairs])
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def averaged(maps: Tensor, height: int, width: int) -> Tensor:
    """Average ``(N, C, H, W)`` over equal parts, by loops."""
    rows, columns = maps.shape[2] // height, maps.shape[3] // width
    result = maps.new_zeros(*maps.shape[:2], height, width)
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            result[:, :, y // rows, x // columns] += maps[:, :, y, x] / (rows * columns)
    return result


def test_attention_maps_of_different_size_are_averaged_to_the_smaller() -> None:
    student, teacher = random(24, 6, 0).view(3, 2, 6, 4), random(8, 9, 1).view(3, 4, 3, 2)
    maps = [averaged(student.square().mean(1, keepdim=True), 3, 2), teacher.square().mean(1, keepdim=True)]
    q, p = (normalize(m.flatten(1)) for m in maps)
    assert attention_transfer([student], [teacher]).item() == pytest.approx((q - p).square().mean().item(), rel=1e-9)
    assert attention_transfer([teacher], [student]).item() == pytest.approx((q - p).square().mean().item(), rel=1e-9)


def test_fitnet_naive_loop_over_stages() -> None:
    torch.manual_seed(0)
    loss = FitNetLoss(3, 4, (2, 3), (5, 6), weight=0.5, label_weight=2.0).double()
    embeddings, labels = random(3, 4, 0), torch.tensor([0, 2, 2])
    student = [random(18, 4, 1).view(3, 2, 6, 2), random(9, 4, 2).view(3, 3, 2, 2)]
    teacher = [random(15, 3, 3).view(3, 5, 3, 1), random(18, 16, 4).view(3, 6, 4, 4)]
    expected = 2 * loss.proxy_anchor(embeddings, labels).item()
    for stage, (height, width) in enumerate([(3, 1), (2, 2)]):
        own, other = (averaged(maps[stage], height, width) for maps in (student, teacher))
        weight, bias = loss.regressors[stage].weight[:, :, 0, 0], loss.regressors[stage].bias
        squares = [
            (weight[c] @ own[image, :, y, x] + bias[c] - other[image, c, y, x]).item() ** 2
            for image in range(3)
            for c in range(other.shape[1])
            for y in range(height)
            for x in range(width)
        ]
        expected += 0.5 * sum(squares) / len(squares)
    assert loss(embeddings, embeddings, None, labels, student, teacher).item() == pytest.approx(expected, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(2, 9), classes=st.integers(1, 4), margin=st.sampled_from([0.0, 0.2, 5.0]), seed=st.integers(0, 99))
def test_darkrank_triplets_naive_loop(n: int, classes: int, margin: float, seed: int) -> None:
    student, teacher, labels = random(n, 3, seed), random(n, 5, seed + 100), torch.arange(n) % classes

    def naive(student: Tensor) -> Tensor:
        t = normalize(student)
        hinges = [
            distance(t, a, p) - distance(t, a, m) + margin
            for a in range(n)
            for p in range(n)
            for m in range(n)
            if a != p and labels[a] == labels[p] != labels[m]
        ]
        active = [hinge for hinge in hinges if hinge > 0]
        triplets = sum(active, student.new_zeros(())) / max(len(active), 1)
        return naive_darkrank(student, teacher, 3, 3, 4) + 0.7 * triplets

    loss = DarkRankLoss(triplet_weight=0.7, margin=margin)
    value, gradient = value_and_gradient(loss, student, teacher, None, labels)
    expected, expected_gradient = value_and_gradient(naive, student)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("labelled", [True, False])
def test_crd_naive_loop_over_three_batches(labelled: bool) -> None:
    torch.manual_seed(0)
    loss = CRDLoss(12, 3, 5, 4 if labelled else None, momentum=0.3, projection_dim=6, label_weight=2.0).double()
    memories = [loss.student_memory.clone(), loss.teacher_memory.clone()]
    known: dict[int, int] = {}
    z: list[float] = []
    for step in range(3):
        ids = torch.tensor([0, 1, 2, 3 + step, 0, 1, 2, 3 + step])  # two views of each of four images
        labels = ids % 4
        student, teacher = random(8, 3, step), random(8, 5, step + 10)
        weights = [(layer.weight, layer.bias) for layer in (loss.student_projection, loss.teacher_projection)]
        views = [
            [normalize(weight @ row + bias, dim=0).detach() for row in rows]
            for rows, (weight, bias) in zip((student, teacher), weights, strict=True)
        ]
        others = [[j for j in range(12) if j != int(i) and not (labelled and known.get(j) == int(i) % 4)] for i in ids]
        exponentials = [  # for each way and view: of the positive, of the negatives
            [
                [math.exp(anchor @ views[1 - way][v] / 0.07)]
                + [math.exp(anchor @ memories[1 - way][j] / 0.07) for j in others[v]]
                for v, anchor in enumerate(views[way])
            ]
            for way in (0, 1)
        ]
        if not z:
            flat = [[e for view in of_way for e in view] for of_way in exponentials]
            z = [12 * sum(e) / len(e) for e in flat]
        expected = 2 * loss.proxy_anchor(student, labels).item() if loss.proxy_anchor is not None else 0.0
        for way in (0, 1):
            for v in range(8):
                positive, *negatives = (e / z[way] for e in exponentials[way][v])
                noise = len(negatives) / 12
                total = math.log(positive / (positive + noise)) + sum(math.log(noise / (n + noise)) for n in negatives)
                expected -= 0.8 * total / 8
        value = loss(student, teacher, ids, labels if labelled else None)
        assert value.item() == pytest.approx(expected, rel=1e-9)
        for memory, seen in zip(memories, views, strict=True):
            for image in ids[:4].tolist():
                mean = sum(view for view, i in zip(seen, ids, strict=True) if i == image) / 2
                memory[image] = normalize(0.3 * memory[image] + 0.7 * mean, dim=0)
        torch.testing.assert_close(loss.student_memory, memories[0])
        torch.testing.assert_close(loss.teacher_memory, memories[1])
        known |= {int(i): int(i) % 4 for i in ids}


def test_crd_draws_as_many_negatives_as_asked_for_and_remembers_in_training_only() -> None:
    torch.manual_seed(0)
    loss = CRDLoss(50, 3, 5, negatives=20)
    drawn: list[int] = []
    loss._contrast = lambda own, other, memory, *rest: drawn.append(len(memory)) or own.sum()  # type: ignore[assignment,func-returns-value]
    ids = torch.arange(4)
    loss(random(4, 3, 0), random(4, 5, 1), ids)
    assert drawn == [20, 20]
    before = loss.student_memory.clone()
    loss.eval()(random(4, 3, 2), random(4, 5, 3), ids)
    assert torch.equal(loss.student_memory, before)


@pytest.mark.parametrize(
    "option", [{"negatives": 0}, {"temperature": 0.0}, {"momentum": 1.0}, {"projection_dim": 0}, {"weight": -1.0}]
)
def test_crd_options_out_of_range(option: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        create_loss("crd", LOSSES, num_images=9, student_dim=3, teacher_dim=3, **option)


@pytest.mark.parametrize("name", WITH_PROXIES)
def test_labels_add_proxy_anchor(name: str) -> None:
    # Without its own term a rival is Proxy-Anchor, of proxies whose name the learner knows them by.
    given = Given(name, weight=0.0, label_weight=3.0)
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    value = given(student, teacher, IDS).item()
    assert value == pytest.approx(3 * given.loss.proxy_anchor(student, IDS % 4).item(), rel=1e-12)
    assert [n for n, _ in given.loss.named_parameters() if n.endswith("proxies")] == ["proxy_anchor.proxies"]
    assert isinstance(given.loss.proxy_anchor, ProxyAnchorLoss) and given.loss.metric == "cosine"


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


@pytest.mark.parametrize("name", NAMES)
def test_permutation_invariance(name: str) -> None:
    student, teacher, ids = random(9, 4, 1), random(9, 6, 2), IDS
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    value, gradient = value_and_gradient(Given(name), student, teacher, ids)
    permuted, permuted_gradient = value_and_gradient(Given(name), student[order], teacher[order], ids[order])
    assert permuted.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(permuted_gradient, gradient[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("fitnet", "crd")])
def test_invariance_to_scale_of_both(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    value = Given(name)(student, teacher)
    assert Given(name)(1e3 * student, 1e-3 * teacher).item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("name", ["relaxed_contrastive", "relaxed_multi_similarity", "rkd"])
def test_student_is_not_normalised(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    value = Given(name)(student, teacher).item()
    assert Given(name)(student + 10, teacher).item() == pytest.approx(value, rel=1e-9)
    assert Given(name)(normalize(student), teacher).item() != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", ["rkd", "pkt"])
def test_equal_spaces_are_the_minimum(name: str) -> None:
    teacher = normalize(random(9, 6, 2))
    value, gradient = value_and_gradient(Given(name), teacher, teacher)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.norm().item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", ["relaxed_contrastive", "darkrank", "pkt", "rkd"])
def test_image_ids_are_ignored(name: str) -> None:
    student, teacher = random(9, 4, 1), random(9, 6, 2)
    loss = create_loss(name, LOSSES)
    assert loss(student, teacher, IDS).item() == loss(student, teacher).item()


@pytest.mark.parametrize("name", NAMES)
def test_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = random(6, 4, 1).requires_grad_(), random(6, 4, 2).requires_grad_()
    Given(name)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.norm() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    given, student, teacher = Given(name), random(6, 3, 1).requires_grad_(), random(6, 5, 2)
    given(student, teacher, IDS[:6])  # the first batch may set constants
    given.loss.eval()
    assert torch.autograd.gradcheck(lambda s: given(s, teacher, IDS[:6]), student)


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
    expected, expected_gradient = value_and_gradient(Given(name), student.double(), teacher.double(), ids)
    loss = torch.autocast("cpu", torch.bfloat16, enabled=autocast)(Given(name))
    value, gradient = value_and_gradient(loss, student, teacher, ids)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert expected.isfinite() and expected_gradient.isfinite().all()
    # The inputs are the same numbers, so only float32 arithmetic (and the rounding of the gradient) may differ.
    assert value.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert gradient.dtype == dtype
    # Losses with proxies get a gradient along several ways, which autograd adds up rounded.
    rounding = 2e-2 * expected_gradient.abs().max().item() if name in WITH_PROXIES else 0.0
    atol = max(1e-4, rounding)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=atol)


@pytest.mark.parametrize("name", ["relaxed_contrastive", "relaxed_multi_similarity"])
def test_coinciding_students_get_no_gradient(name: str) -> None:
    student, teacher = degenerate("all students identical")
    _, gradient = value_and_gradient(Given(name), student.float(), teacher.float())
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
    expected = attention_transfer([student.half().double()], [teacher])
    loss = torch.autocast("cpu", torch.bfloat16)(lambda s: attention_transfer([s], [teacher]))
    value, gradient = value_and_gradient(loss, student.half())
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient.isfinite().all()


def test_near_rows_far_from_the_origin_keep_their_distance_in_float32() -> None:
    base = random(4, 32, 0)
    points = torch.cat([base, base + 1e-4 * random(4, 32, 1)]).float() + 10
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pairwise_distances(points).double(), exact, rtol=1e-5, atol=0)


def test_float32_distances_agree_with_differences_in_float64_and_so_do_their_gradients() -> None:
    # Two views of an image are near each other, and two images are the same: more rows than one block holds.
    images = random(700, 24, 0)
    points = torch.cat([images, images + 0.01 * random(700, 24, 1)]).float()
    points[7] = points[3]
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances = pairwise_distances(points)
    torch.testing.assert_close(distances.double(), exact, rtol=1e-6, atol=0)
    assert distances[3, 7] == distances[7, 3] == 0
    torch.testing.assert_close(squared_distances(points).double(), exact.square(), rtol=1e-6, atol=0)
    weights = random(1400, 1400, 2)
    _, gradient = value_and_gradient(lambda x: (pairwise_distances(x) * weights.float()).sum(), points)
    _, expected = value_and_gradient(lambda x: (pairwise_distances(x) * weights).sum(), points.double())
    assert (gradient.double() - expected).norm() <= 1e-5 * expected.norm()


def test_rows_nearer_than_rounding_are_equal_whatever_their_size() -> None:
    row = random(1, 4096, 0).float()
    points = 1e15 * torch.cat([row, row, -row, random(5, 4096, 1).float()])
    distances = pairwise_distances(points)
    assert distances[0, 1] == 0
    assert (distances[2, :2] > 0).all()
    assert (distances.diagonal() == 0).all()


@pytest.mark.parametrize("name", ["relaxed_contrastive", "relaxed_multi_similarity", "rkd", "darkrank"])
def test_losses_of_distances_compile_without_a_break(name: str) -> None:
    student, teacher, labels = random(6, 4, 0).float(), random(6, 5, 1).float(), torch.arange(6) // 2
    given = {"labels": labels} if name == "darkrank" else {}
    loss = {
        "relaxed_contrastive": RelaxedContrastiveLoss,
        "relaxed_multi_similarity": RelaxedMultiSimilarityLoss,
        "rkd": lambda: RKDLoss(angle_weight=0),
        "darkrank": DarkRankLoss,
    }[name]()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for value, expected in zip(
        value_and_gradient(lambda x: compiled(x, teacher, **given), student),
        value_and_gradient(lambda x: loss(x, teacher, **given), student),
        strict=True,
    ):
        torch.testing.assert_close(value, expected)


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


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*OF_MAPS, "regression")])  # it has no pairs
def test_no_tensor_of_n_n_d(name: str) -> None:
    n, dim = (64, 512) if name == "rkd" else (256, 128)
    student, teacher = random(n, dim, 0).float().requires_grad_(), random(n, dim, 1).float()
    with LargestTensor() as seen:
        Given(name)(student, teacher, torch.arange(n)).backward()
    anchors = 8 if name == "rkd" else 1
    assert n * n <= seen.largest <= anchors * n * (max(n, dim) + 1)
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
    loss_class = find_loss(name, LOSSES)
    assert (loss_class.__module__, loss_class.__name__) == (module, class_name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("darkrank", {"alpha": 0.0}, r"alpha is 0\.0; it must be above 0"),
        ("darkrank", {"beta": 0.5}, r"beta is 0\.5; it must be at least 1"),
        ("darkrank", {"permute_length": 0}, "permute_length is 0; it must be at least 1"),
        ("darkrank", {"triplet_weight": -1.0}, "triplet_weight is -1"),
        ("rkd", {"distance_weight": -1.0}, "distance_weight is -1"),
        ("rkd", {"distance_weight": 0.0, "angle_weight": 0.0}, r"distance_weight \+ angle_weight is 0"),
        ("pkt", {"weight": 0.0}, r"weight is 0\.0; it must be above 0"),
        ("fitnet", {"label_weight": 0.0}, r"label_weight is 0\.0; it must be above 0"),
        ("attention", {"weight": -1.0}, r"weight is -1\.0; it must be at least 0"),
        ("attention", {"label_weight": 0.0}, "label_weight is 0"),
        ("crd", {"negatives": "many"}, "negatives of loss 'crd' is 'many'; it must be a number"),
        ("crd", {"negatives": 1.5}, r"negatives of loss 'crd' is 1\.5; it must be a whole number"),
        ("crd", {"negatives": float("nan")}, "negatives of loss 'crd' is nan; it must be a whole number"),
    ],
)
def test_options_out_of_range_are_named(name: str, options: dict[str, Any], message: str) -> None:
    facts = {"num_images": 4, "num_classes": 2, "student_dim": 3, "teacher_dim": 3}
    facts |= {"student_channels": (4,), "teacher_channels": (4,)}
    named = inspect.signature(find_loss(name, LOSSES)).parameters
    with pytest.raises(OptionError, match=message):
        create_loss(name, LOSSES, **{key: value for key, value in facts.items() if key in named} | options)


def test_whole_numbers_may_be_written_with_an_exponent() -> None:
    loss = create_loss("crd", LOSSES, num_images=40, student_dim=3, teacher_dim=3, negatives=1e1)
    assert isinstance(loss, CRDLoss) and type(loss.negatives) is int and loss.negatives == 10


def test_the_weight_of_pkt_scales_it() -> None:
    student, teacher = random(6, 4, 0), random(6, 5, 1)
    assert PKTLoss(1e4)(student, teacher).item() == pytest.approx(1e4 * PKTLoss()(student, teacher).item(), rel=1e-12)
