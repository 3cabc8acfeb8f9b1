"""The metric-learning losses against the papers' reference values, naive loops, and the limits of precision."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from zoo.errors import OptionError
from zoo.losses import LOSSES, create_loss, find_loss, labels_of
from zoo.losses.binary_triplet import BinaryTripletLoss
from zoo.losses.dense_triplet import DenseTripletLoss
from zoo.losses.log_ratio import LogRatioLoss
from zoo.losses.normalized_softmax import NormalizedSoftmaxLoss
from zoo.losses.proxy_anchor import ProxyAnchorLoss
from zoo.losses.proxy_nca import ProxyNCALoss

REFERENCE = json.loads((Path(__file__).parents[2] / "reference_losses.json").read_text())


def reference(name: str) -> Tensor:
    return torch.tensor(REFERENCE[name], dtype=torch.float64)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def proxy_anchor(proxies: Tensor, margin: float = 0.1, alpha: float = 32.0) -> ProxyAnchorLoss:
    loss = ProxyAnchorLoss(len(proxies), proxies.shape[1], margin, alpha).to(proxies.dtype)
    loss.load_state_dict({"proxies": proxies})
    return loss


def batch(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings ``(N, 8)`` in float64, labels and float32 proxies ``(6, 8)`` for the limits of precision."""
    embeddings, labels, proxies = random(9, 8, seed=0), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4]), random(6, 8, seed=1)
    if case == "duplicates":
        embeddings[1], embeddings[4] = embeddings[0], embeddings[0]
    elif case == "batch of two":
        embeddings, labels = embeddings[7:], labels[7:]
    elif case == "all identical":
        embeddings = proxies[5].expand(9, -1).clone()
    elif case == "large":
        embeddings = 2000 * embeddings
    elif case == "one class":
        labels = torch.full_like(labels, 2)
    return embeddings, labels, proxies.float()


# --- Proxy-Anchor ---


@pytest.mark.parametrize("name", ["proxy_anchor_margin0.1_alpha32", "proxy_anchor_classes_2_3_absent"])
def test_proxy_anchor_reference(name: str) -> None:
    expected = REFERENCE["values"][name]
    student = reference("student").requires_grad_()
    labels = torch.tensor(expected.get("labels", REFERENCE["labels"]))
    value = proxy_anchor(reference("proxies"), margin=0.1, alpha=32)(student, labels)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert gradient.norm().item() == pytest.approx(expected["grad_norm"], abs=1e-6)
    assert gradient[0].tolist() == pytest.approx(expected["grad_row0"], abs=1e-6)


def naive_proxy_anchor(embeddings: Tensor, labels: list[int], proxies: Tensor, margin: float, alpha: float) -> float:
    similarity = (normalize(embeddings) @ normalize(proxies).T).tolist()
    pull = push = 0.0
    for p in range(len(proxies)):
        positive = sum(math.exp(-alpha * (s[p] - margin)) for s, y in zip(similarity, labels, strict=True) if y == p)
        negative = sum(math.exp(alpha * (s[p] + margin)) for s, y in zip(similarity, labels, strict=True) if y != p)
        pull += math.log(1 + positive) / len(set(labels))
        push += math.log(1 + negative) / len(proxies)
    return pull + push


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
    alpha=st.sampled_from([1.0, 32.0, 64.0]),
    seed=st.integers(0, 999),
)
def test_proxy_anchor_naive_loop(labels: list[int], margin: float, alpha: float, seed: int) -> None:
    embeddings, proxies = random(len(labels), 4, seed=seed), random(6, 4, seed=seed + 1000)
    value = proxy_anchor(proxies, margin=margin, alpha=alpha)(embeddings, torch.tensor(labels))
    assert value.item() == pytest.approx(naive_proxy_anchor(embeddings, labels, proxies, margin, alpha), rel=1e-9)


def test_proxy_anchor_gradient_reaches_embeddings_and_proxies() -> None:
    labels = torch.tensor([0, 2, 2, 1, 0])

    def value(embeddings: Tensor, proxies: Tensor) -> Tensor:
        return torch.func.functional_call(ProxyAnchorLoss(4, 3).double(), {"proxies": proxies}, (embeddings, labels))

    inputs = random(5, 3, seed=0).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", ["plain", "duplicates", "batch of two", "all identical", "large", "one class"])
def test_proxy_anchor_finite_and_as_in_float64(case: str, dtype: torch.dtype, autocast: bool) -> None:
    embeddings, labels, proxies = batch(case)
    embeddings = embeddings.to(dtype).requires_grad_()
    expected = proxy_anchor(proxies.double())(embeddings.double(), labels)
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = proxy_anchor(proxies)(embeddings, labels)
    (gradient,) = torch.autograd.grad(value, embeddings)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-2, atol=1e-3)
    assert gradient.norm() > 0


def test_proxy_anchor_extreme_scale_does_not_overflow() -> None:
    proxies = torch.eye(2)
    value = proxy_anchor(proxies, alpha=1000.0)(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    # The pull's exponent is 1000 * 0.1 and the push's 1000 * 1.1: log(1 + e^x) = x.
    assert value.item() == pytest.approx(100 + 1100 / 2)


def test_proxy_anchor_permutation_invariance() -> None:
    embeddings, labels, loss = random(8, 4, seed=0), torch.tensor([0, 1, 2, 0, 1, 2, 3, 3]), random(5, 4, seed=1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    value = proxy_anchor(loss)(embeddings, labels).item()
    assert proxy_anchor(loss)(embeddings[order], labels[order]).item() == pytest.approx(value, rel=1e-12)


def test_proxies_start_as_kaiming_normal_fan_out() -> None:
    torch.manual_seed(0)
    proxies = ProxyAnchorLoss(400, 256).proxies
    assert proxies.shape == (400, 256)
    assert proxies.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)


# --- Proxy-NCA++ and normalised softmax ---

SOFTMAX: dict[str, tuple[type[Any], float]] = {
    "proxy_nca": (ProxyNCALoss, 1 / 9),
    "normalized_softmax": (NormalizedSoftmaxLoss, 0.05),
}


def softmax_loss(name: str, proxies: Tensor, **options: float) -> Any:
    loss = create_loss(name, num_classes=len(proxies), dim=proxies.shape[1], **options).to(proxies.dtype)
    loss.load_state_dict({"proxies": proxies})
    return loss


def naive_softmax(name: str, embeddings: Tensor, labels: list[int], proxies: Tensor, temperature: float) -> float:
    x, p = normalize(embeddings).tolist(), normalize(proxies).tolist()
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        if name == "proxy_nca":
            terms = [math.exp(-(math.dist(row, proxy) ** 2) / temperature) for proxy in p]
        else:
            terms = [math.exp(sum(a * b for a, b in zip(row, proxy, strict=True)) / temperature) for proxy in p]
        total -= math.log(terms[label] / sum(terms))
    return total / len(labels)


@pytest.mark.parametrize("name", SOFTMAX)
@settings(max_examples=15, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    temperature=st.sampled_from([0.05, 1 / 9, 1.0]),
    seed=st.integers(0, 999),
)
def test_softmax_losses_naive_loop(name: str, labels: list[int], temperature: float, seed: int) -> None:
    embeddings, proxies = random(len(labels), 4, seed=seed), random(6, 4, seed=seed + 1000)
    value = softmax_loss(name, proxies, temperature=temperature)(embeddings, torch.tensor(labels))
    assert value.item() == pytest.approx(naive_softmax(name, embeddings, labels, proxies, temperature), rel=1e-9)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_losses_as_an_independent_implementation(name: str) -> None:
    from pytorch_metric_learning import losses

    embeddings, labels, proxies = random(9, 8, seed=0), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4]), random(6, 8, seed=1)
    if name == "proxy_nca":
        other: Any = losses.ProxyNCALoss(6, 8, softmax_scale=9)
        other.proxies.data = proxies
    else:
        other = losses.NormalizedSoftmaxLoss(6, 8, temperature=0.05)
        other.W.data = proxies.T.clone()
    assert softmax_loss(name, proxies)(embeddings, labels).item() == pytest.approx(
        other(embeddings, labels).item(), rel=1e-9
    )


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_losses_gradcheck(name: str) -> None:
    labels = torch.tensor([0, 2, 2, 1, 0])
    loss = softmax_loss(name, random(4, 3, seed=1))

    def value(embeddings: Tensor, proxies: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies": proxies}, (embeddings, labels))

    inputs = random(5, 3, seed=0).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", ["plain", "duplicates", "batch of two", "all identical", "large", "one class"])
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_losses_finite_and_as_in_float64(name: str, case: str, dtype: torch.dtype, autocast: bool) -> None:
    embeddings, labels, proxies = batch(case)
    embeddings = embeddings.to(dtype).requires_grad_()
    expected = softmax_loss(name, proxies.double())(embeddings.double(), labels)
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = softmax_loss(name, proxies)(embeddings, labels)
    (gradient,) = torch.autograd.grad(value, embeddings)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-2, atol=1e-3)
    assert gradient.norm() > 0


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_losses_defaults_and_limits(name: str) -> None:
    kind, temperature = SOFTMAX[name]
    loss = create_loss(name, num_classes=3, dim=2)
    assert type(loss) is kind and loss.temperature == temperature
    with pytest.raises(OptionError, match=r"temperature is 0; it must be above 0"):
        create_loss(name, num_classes=3, dim=2, temperature=0)


# --- log-ratio ---


@pytest.mark.parametrize(("name", "squared"), [("squared", True), ("unsquared", False)])
def test_log_ratio_reference(name: str, squared: bool) -> None:
    expected = REFERENCE["values"][f"log_ratio_anchor0_{name}_distance"]
    student = reference("student").requires_grad_()
    value = LogRatioLoss(squared, label_eps=0)(student[0], student[1:], reference("label_distances_from_sample_0"))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert gradient.norm().item() == pytest.approx(expected["grad_norm"], abs=1e-6)
    assert gradient[0].tolist() == pytest.approx(expected["grad_row0"], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(2, 12),
    squared=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-3]),
    share=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 999),
)
def test_log_ratio_naive_loop(m: int, squared: bool, eps: float, share: float, seed: int) -> None:
    anchor, neighbours = random(3, seed=seed), random(m, 3, seed=seed + 1000)
    labels = random(m, seed=seed + 2000).abs()
    raised = [label + share * sum(labels.tolist()) / m + eps for label in labels.tolist()]
    power = 2 if squared else 1
    distances = [math.dist(anchor.tolist(), row) ** power for row in neighbours.tolist()]
    squares = [
        (math.log((distances[i] + eps) / (distances[j] + eps)) - math.log(raised[i] / raised[j])) ** 2
        for i in range(m)
        for j in range(i + 1, m)
    ]
    value = LogRatioLoss(squared, eps, share)(anchor, neighbours, labels)
    assert value.item() == pytest.approx(sum(squares) / len(squares), rel=1e-9)


def test_log_ratio_is_zero_where_distances_are_proportional() -> None:
    anchor, direction = random(4, seed=0), normalize(random(6, 4, seed=1))
    labels = torch.arange(1, 7, dtype=torch.float64)
    neighbours = anchor + 5 * labels[:, None] * direction
    assert LogRatioLoss(squared=False, label_eps=0)(anchor, neighbours, labels).item() == pytest.approx(0, abs=1e-10)
    # Squared distances have twice the logarithm: the loss is the mean squared log ratio of the labels themselves.
    ratios = [math.log(i / j) ** 2 for i in range(1, 7) for j in range(i + 1, 7)]
    expected = pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
    assert LogRatioLoss(squared=True, label_eps=0)(anchor, neighbours, labels).item() == expected


def test_log_ratio_does_not_depend_on_the_unit_of_labels() -> None:
    """Also where some are the same, whose logarithm of 1e-6 would count the more the larger the others are."""
    anchor, neighbours, labels = random(4, seed=0), random(6, 4, seed=1), random(6, seed=2).abs()
    labels[1] = labels[4] = 0
    values = [LogRatioLoss()(anchor, neighbours, unit * labels).item() for unit in (1.0, 1000.0)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    fixed = [LogRatioLoss(label_eps=0)(anchor, neighbours, unit * labels).item() for unit in (1.0, 1000.0)]
    assert fixed[1] > 1.5 * fixed[0] > 10 * values[0]
    with pytest.raises(OptionError, match="label_eps"):
        LogRatioLoss(label_eps=-0.1)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_log_ratio_finite_and_as_in_float64(dtype: torch.dtype, autocast: bool, squared: bool) -> None:
    anchor, neighbours, labels = random(8, seed=0).to(dtype), random(6, 8, seed=1).to(dtype), random(6, seed=2).abs()
    neighbours[2], neighbours[4], labels[3] = anchor, neighbours[1], 0
    neighbours.requires_grad_()
    expected = LogRatioLoss(squared)(anchor.double(), neighbours.double(), labels)
    (expected_gradient,) = torch.autograd.grad(expected, neighbours)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = LogRatioLoss(squared)(anchor, neighbours, labels)
    (gradient,) = torch.autograd.grad(value, neighbours)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-2, atol=1e-3)
    assert (gradient[2] == 0).all() and gradient.norm() > 0


def test_log_ratio_without_pairs_is_zero() -> None:
    loss = LogRatioLoss()
    assert loss(random(3, seed=0), random(1, 3, seed=1), torch.ones(1)).item() == 0


def test_log_ratio_gradcheck() -> None:
    labels = random(5, seed=2).abs()
    inputs = random(3, seed=0).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    for squared in (True, False):
        assert torch.autograd.gradcheck(lambda a, x, s=squared: LogRatioLoss(s)(a, x, labels), inputs)


# --- triplets on continuous labels ---


def naive_triplets(anchor: Tensor, neighbours: Tensor, pairs: list[tuple[int, int]], margin: float) -> float:
    distances = [math.dist(normalize(anchor, dim=0).tolist(), row) ** 2 for row in normalize(neighbours).tolist()]
    hinges = [max(0.0, distances[i] - distances[j] + margin) for i, j in pairs]
    return sum(hinges) / max(len(hinges), 1)


def triplet_input(m: int, seed: int, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    labels = random(m, seed=seed + 2000).abs()
    return random(3, seed=seed), random(m, 3, seed=seed + 1000), (2 * labels).round() if ties else labels


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 12), ties=st.booleans(), margin=st.sampled_from([0.0, 0.03, 0.5]), seed=st.integers(0, 999))
def test_dense_triplet_naive_loop(m: int, ties: bool, margin: float, seed: int) -> None:
    anchor, neighbours, labels = triplet_input(m, seed, ties)
    pairs = [(i, j) for i in range(m) for j in range(m) if labels[i] < labels[j]]
    value = DenseTripletLoss(margin)(anchor, neighbours, labels)
    assert value.item() == pytest.approx(naive_triplets(anchor, neighbours, pairs, margin), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 12),
    ties=st.booleans(),
    k=st.integers(1, 6),
    margin=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 999),
)
def test_binary_triplet_naive_loop(m: int, ties: bool, k: int, margin: float, seed: int) -> None:
    anchor, neighbours, labels = triplet_input(m, seed, ties)
    border = sorted(labels.tolist())[min(k, m) - 1]
    pairs = [(i, j) for i in range(m) for j in range(m) if labels[i] <= border < labels[j]]
    value = BinaryTripletLoss(margin, k)(anchor, neighbours, labels)
    assert value.item() == pytest.approx(naive_triplets(anchor, neighbours, pairs, margin), rel=1e-9, abs=1e-12)


def test_triplets_by_hand() -> None:
    # Unit vectors at 0, 90, 180 and 60 degrees from the anchor: squared distances 0, 2, 4 and 1.
    anchor = torch.tensor([2.0, 0.0])
    neighbours = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.5, 0.75**0.5]])
    labels = torch.tensor([0.3, 0.1, 0.4, 0.2])  # so the order should be 1, 3, 0, 2, and it is 0, 3, 1, 2
    # Triplets (1, 3): 2 - 1, (1, 0): 2 - 0, (3, 0): 1 - 0, each plus the margin; three others are in order.
    assert DenseTripletLoss(0.03)(anchor, neighbours, labels).item() == pytest.approx((4 + 3 * 0.03) / 6)
    # Positive 1 and 3, negative 0 and 2: (1, 0) and (3, 0).
    assert BinaryTripletLoss(0.2, 2)(anchor, neighbours, labels).item() == pytest.approx((3 + 2 * 0.2) / 4)


TRIPLETS: list[nn.Module] = [DenseTripletLoss(), BinaryTripletLoss(neighbours=2)]


@pytest.mark.parametrize("loss", TRIPLETS, ids=["dense", "binary"])
def test_triplets_are_permutation_invariant_and_ignore_length(loss: nn.Module) -> None:
    anchor, neighbours, labels = triplet_input(9, seed=0, ties=True)
    value = loss(anchor, neighbours, labels).item()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    lengths = torch.arange(1, 10)[:, None]
    assert loss(3 * anchor, (lengths * neighbours)[order], labels[order]).item() == pytest.approx(value, rel=1e-12)
    assert loss(anchor, neighbours, torch.ones(9)).item() == 0  # nothing to tell apart
    assert value > 0


@pytest.mark.parametrize("loss", [*TRIPLETS, LogRatioLoss()], ids=["dense", "binary", "log-ratio"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", ["plain", "duplicates", "two", "one", "all identical", "equal labels"])
def test_continuous_losses_finite_and_as_in_float64(
    case: str, dtype: torch.dtype, autocast: bool, loss: nn.Module
) -> None:
    anchor, neighbours, labels = random(8, seed=0), random(6, 8, seed=1), random(6, seed=2).abs()
    if case == "duplicates":
        neighbours[2], neighbours[4], labels[3] = anchor, neighbours[1], 0
    elif case in ("one", "two"):
        neighbours, labels = neighbours[: 1 + (case == "two")], labels[: 1 + (case == "two")]
    elif case == "all identical":
        neighbours = anchor.expand(6, -1).clone()
    elif case == "equal labels":
        labels = torch.zeros(6)
    anchor, neighbours = anchor.to(dtype).requires_grad_(), neighbours.to(dtype).requires_grad_()
    expected = loss(anchor.double(), neighbours.double(), labels.double())
    expected_gradients = torch.autograd.grad(expected, (anchor, neighbours))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(anchor, neighbours, labels.float())
    gradients = torch.autograd.grad(value, (anchor, neighbours))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-7)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.isfinite().all()
        if case != "all identical":  # there rounding decides
            torch.testing.assert_close(gradient, wanted, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("loss", TRIPLETS, ids=["dense", "binary"])
def test_triplet_gradcheck(loss: nn.Module) -> None:
    anchor, neighbours, labels = triplet_input(5, seed=0)
    inputs = anchor.requires_grad_(), neighbours.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, x: loss(a, x, labels), inputs)


def test_binary_triplet_needs_a_positive() -> None:
    with pytest.raises(OptionError, match="neighbours is 0"):
        BinaryTripletLoss(neighbours=0)


# --- losses by name ---


def test_losses_say_which_labels_and_metric_they_want() -> None:
    said = {name: (labels_of(find_loss(name)), getattr(find_loss(name), "metric", "cosine")) for name in LOSSES}
    assert said == {
        "proxy_anchor": ("classes", "cosine"),
        "proxy_nca": ("classes", "cosine"),
        "normalized_softmax": ("classes", "cosine"),
        "novel_classes": ("classes", "cosine"),
        "log_ratio": ("continuous", "euclidean"),
        "dense_triplet": ("continuous", "cosine"),
        "binary_triplet": ("continuous", "cosine"),
    }

    class Odd(nn.Module):
        labels = "continous"

    with pytest.raises(OptionError, match=r"Odd\.labels is 'continous'; a loss learns from 'classes' or 'continuous'"):
        labels_of(Odd)


def test_create_loss_by_name_and_by_class() -> None:
    loss = create_loss("proxy_anchor", num_classes=3, dim=2, alpha=16.0)
    assert isinstance(loss, ProxyAnchorLoss) and loss.alpha == 16
    assert isinstance(create_loss("zoo.losses.log_ratio:LogRatioLoss"), LogRatioLoss)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("proxy_ancor", {}, "Unknown loss 'proxy_ancor'.*Did you mean proxy_anchor"),
        ("no.such.module:Loss", {}, "cannot be imported"),
        ("zoo.losses.proxy_anchor:NoSuchLoss", {}, "cannot be imported"),
        ("proxy_anchor", {"num_classes": 2, "dim": 2, "sharpness": 1}, "has no option 'sharpness'"),
        ("proxy_anchor", {"num_classes": 2, "dim": 2, "margn": 1}, "has no option 'margn'. Did you mean margin"),
        ("proxy_anchor", {"num_classes": 2, "dim": 2, "alpha": True}, "alpha of loss .* is True; it must be a number"),
        ("binary_triplet", {"neighbours": False}, "neighbours of loss 'binary_triplet' is False; it must be a number"),
        ("collections:OrderedDict", {}, "not a torch.nn.Module"),
    ],
)
def test_create_loss_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_loss(name, **options)


@pytest.mark.parametrize("name", ["proxy_anchor", "proxy_nca", "normalized_softmax", "novel_classes"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_embedding_without_direction_gets_no_gradient(name: str, dtype: torch.dtype) -> None:
    loss = create_loss(name, num_classes=3, dim=4)
    embeddings = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4]], dtype=dtype, requires_grad=True)
    loss(embeddings, torch.tensor([0, 1])).backward()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()
    assert (embeddings.grad[0] == 0).all() and (embeddings.grad[1] != 0).any()


def test_logarithms_of_zero_are_refused() -> None:
    for eps in (0.0, -1.0):
        with pytest.raises(OptionError, match=rf"eps is {eps}; it must be above 0"):
            create_loss("log_ratio", eps=eps)


class Returns(nn.Module):
    """A loss that returns what a function makes of the embeddings."""

    make: Callable[[Tensor], Any] = staticmethod(lambda embeddings: embeddings)

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Any:
        return self.make(embeddings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: e.square().mean(1), r"returns a Tensor of shape \(4,\); it must return a tensor of one number"),
        (lambda e: {"loss": e.mean()}, "returns a dict; it must"),
        (lambda e: (e.mean(), e), "returns a tuple; it must"),
        (lambda e: float(e.mean()), "returns a float; it must"),
        (lambda e: None, "returns a NoneType; it must"),
        (lambda e: e.detach().mean(), "returns a number without a gradient"),
    ],
)
def test_a_loss_returns_one_number(make: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "losses_of_mine", SimpleNamespace(Returns=Returns))
    embeddings, labels = torch.randn(4, 2, requires_grad=True), torch.tensor([0, 0, 1, 1])
    loss = create_loss("losses_of_mine:Returns", num_classes=2, dim=2)
    monkeypatch.setattr(Returns, "make", staticmethod(make))
    with pytest.raises(OptionError, match=f"Loss 'losses_of_mine:Returns' {said}"):
        loss(embeddings, labels)
    for one_number in (lambda e: e.mean(), lambda e: e.mean()[None]):
        monkeypatch.setattr(Returns, "make", staticmethod(one_number))
        assert float(loss(embeddings, labels)) == pytest.approx(float(embeddings.mean()))
