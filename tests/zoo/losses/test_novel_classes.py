"""Novel classes: the objective term by term, where gradients flow, the generator, training, and the report."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

import zoo.training.learner
from zoo import load_data, load_model, train
from zoo.errors import OptionError
from zoo.losses import create_loss
from zoo.losses.novel.energy import energy_distances, spreads
from zoo.losses.novel.report import report_generated
from zoo.losses.novel_classes import NovelClassesLoss
from zoo.models.embedding import embed

BASES = ["proxy_anchor", "proxy_nca", "normalized_softmax"]
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4])
OFF: dict[str, Any] = {"novel_classes": 0, "synthetic_weight": 0, "realism_weight": 0, "diversity_weight": 0}
QUICK: dict[str, Any] = {
    "dim": 16,
    "image_size": 32,
    "crop_pct": 1.0,
    "batch_size": 16,
    "images_per_class": 4,
    "lr": 2e-3,
    "proxy_lr_factor": 20,
    "workers": 0,
    "loss": "novel_classes",
}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(num_classes: int = 5, dim: int = 8, seed: int = 0, **options: Any) -> NovelClassesLoss:
    torch.manual_seed(seed)
    return NovelClassesLoss(num_classes, dim, **({"hidden_dim": 32, "noise_dim": 4} | options))


# --- the objective ---


@pytest.mark.parametrize("warming_up", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_without_novel_classes_and_weights_it_is_the_base(base: str, warming_up: bool) -> None:
    loss, embeddings = make(base=base, **OFF), random(9, 8, seed=1).requires_grad_()
    loss.set_epoch(0 if warming_up else 5, 10)
    plain = create_loss(base, num_classes=5, dim=8)
    plain.load_state_dict(loss.base.state_dict())
    value, expected = loss(embeddings, LABELS), plain(embeddings, LABELS)
    assert value.item() == expected.item()
    inputs = zip((embeddings, loss.base.proxies), (embeddings, plain.proxies), strict=True)
    for ours, theirs in inputs:
        assert torch.equal(
            *(torch.autograd.grad(v, p, retain_graph=True)[0] for v, p in ((value, ours), (expected, theirs)))
        )


@pytest.mark.parametrize("base", BASES)
def test_terms_written_out(base: str) -> None:
    weights = {"synthetic_weight": 0.5, "realism_weight": 3.0, "diversity_weight": 2.0}
    loss, embeddings = make(base=base, novel_classes=7, **weights), random(9, 8, seed=1)
    torch.manual_seed(4)
    value = loss(embeddings, LABELS).item()
    torch.manual_seed(4)
    twice = torch.cat([LABELS, LABELS])
    generated = loss.generator(twice, torch.randn(18, 4))
    chosen = torch.randperm(7)[:4]  # five classes in the batch, and nine images: two of each of four
    novel_labels = torch.tensor([5 + int(chosen[i % 4]) for i in range(9)])
    novel = loss.generator(novel_labels, torch.randn(9, 4))
    real = normalize(embeddings)
    joint = loss.base(torch.cat([real, generated[:9], novel]), torch.cat([LABELS, LABELS, novel_labels]))
    realism = 0.0
    for label in range(5):
        x, y = real[LABELS.eq(label)], generated[twice.eq(label)]
        realism += energy_distances(x, torch.zeros(len(x)), y, torch.zeros(len(y))).item() / 5
    realism += energy_distances(real, torch.zeros(9), novel, torch.zeros(9)).item()
    wanted = spreads(generated, twice).mean().item()
    amiss = [abs(1 - spread / wanted) for spread in spreads(novel, novel_labels).tolist()]
    plain = create_loss(base, num_classes=5, dim=8)
    plain.load_state_dict({"proxies": loss.base.proxies[:5]})
    expected = plain(embeddings, LABELS).item() + 3 * realism + 2 * sum(amiss) / 4
    assert value == pytest.approx(expected + 0.5 * joint.item(), rel=1e-5)
    loss.set_epoch(0, 5)
    torch.manual_seed(4)
    assert loss(embeddings, LABELS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_permutation_invariance(base: str) -> None:
    # Several processes hand the rows of a batch over in another order than one does.
    loss, embeddings = make(base=base), random(9, 8, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(4)
    value = loss(embeddings, LABELS).item()
    torch.manual_seed(4)
    assert loss(embeddings[order], LABELS[order]).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("option", "warm"), [(None, [0, 1]), (3, [0, 1, 2]), (0, []), (99, list(range(10)))])
def test_warmup_epochs(option: int | None, warm: list[int]) -> None:
    loss = make(warmup_epochs=option)
    assert not loss._warming_up
    found = []
    for epoch in range(10):
        loss.set_epoch(epoch, 10)
        found += [epoch] * loss._warming_up
    assert found == warm


def gradients(loss: NovelClassesLoss, embeddings: Tensor) -> dict[str, Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    torch.manual_seed(4)
    loss.zero_grad()
    loss(embeddings, LABELS).backward()
    found = {name: p.grad for name, p in loss.named_parameters()} | {"embeddings": embeddings.grad}
    assert all(gradient is not None for gradient in found.values())  # several processes wait for each
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def test_what_learns_from_what() -> None:
    embeddings = random(9, 8, seed=1)
    none = {"synthetic_weight": 0.0, "realism_weight": 0.0, "diversity_weight": 0.0}
    plain = gradients(make(**none), embeddings)
    assert all((gradient == 0).all() for name, gradient in plain.items() if name.startswith("generator"))
    for name, rows in (("realism_weight", slice(0, 10)), ("diversity_weight", slice(5, 10))):
        found = gradients(make(**(none | {name: 1.0})), embeddings)
        # Images and proxies learn nothing from it, nor do the conditions of the other classes.
        assert torch.equal(found["embeddings"], plain["embeddings"])
        assert torch.equal(found["base.proxies"], plain["base.proxies"])
        moved = found["generator.conditions"].abs().sum(dim=1) > 0
        assert moved[rows].any() and moved.sum() == moved[rows].sum()
        assert moved[5:].any()  # novel classes are not left out of either
        assert found["generator.network.4.weight"].norm() > 0
    found = gradients(make(**(none | {"synthetic_weight": 1.0})), embeddings)
    for name in ("embeddings", "base.proxies", "generator.conditions"):
        assert not torch.equal(found[name], plain[name]), name
    warming_up = make()
    warming_up.set_epoch(0, 9)
    found = gradients(warming_up, embeddings)
    moved = {name: found[name].abs().sum(dim=1) > 0 for name in ("base.proxies", "generator.conditions")}
    assert moved["base.proxies"][:5].all() and not moved["base.proxies"][5:].any()
    assert moved["generator.conditions"][:5].all() and moved["generator.conditions"][5:].any()


def batch(case: str) -> tuple[Tensor, Tensor]:
    embeddings, labels = random(9, 8, seed=1), LABELS
    if case == "duplicates":
        embeddings[1], embeddings[4] = embeddings[0], embeddings[0]
    elif case == "batch of two":
        embeddings, labels = embeddings[:2], torch.tensor([1, 3])
    elif case == "one image":
        embeddings, labels = embeddings[:1], labels[:1]
    elif case == "classes of one image":
        embeddings, labels = embeddings[:5], torch.arange(5)
    elif case == "all identical":
        embeddings = embeddings[:1].expand(9, -1).clone()
    elif case == "one class":
        labels = torch.full_like(labels, 2)
    elif case == "large":
        embeddings = 2000 * embeddings
    return embeddings, labels


CASES = [
    "plain",
    "duplicates",
    "batch of two",
    "one image",
    "classes of one image",
    "all identical",
    "one class",
    "large",
]


@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("base", BASES)
def test_finite_and_as_in_float64(base: str, case: str, dtype: torch.dtype, autocast: torch.dtype | None) -> None:
    embeddings, labels = batch(case)
    embeddings = embeddings.to(dtype).requires_grad_()
    loss = make(base=base)
    exact = copy.deepcopy(loss).double()
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        torch.manual_seed(4)
        value = loss(embeddings, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    # The same noise, rounded alike.
    original = torch.randn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, dtype: original(*shape).to(dtype))
        torch.manual_seed(4)
        expected = exact(embeddings.detach().double(), labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0]), torch.tensor([0, 1]), torch.arange(5).repeat(3)])
@pytest.mark.parametrize("novel_classes", [0, 1, 3, 40])
def test_novel_labels(labels: Tensor, novel_classes: int) -> None:
    found = make(novel_classes=novel_classes)._some_novel(labels)
    if not novel_classes:
        assert not len(found)
        return
    assert len(found) == len(labels) and found.min() >= 5 and found.max() < 5 + novel_classes
    counts = found.unique(return_counts=True)[1]
    assert len(counts) == max(min(len(labels.unique()), novel_classes, len(labels) // 2), 1)
    assert counts.min() >= min(2, len(labels)) and counts.max() - counts.min() <= 1


def test_every_novel_class_has_its_turn() -> None:
    torch.manual_seed(0)
    loss = make(novel_classes=12)
    assert set(torch.cat([loss._some_novel(LABELS) for _ in range(60)]).tolist()) == set(range(5, 17))


def test_the_base_may_be_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own_bases.py").write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self, num_classes, dim, size=0):\n"
        "        super().__init__()\n"
        "        self.proxies = torch.nn.Parameter(torch.zeros(size or num_classes, dim))\n"
        "    def forward(self, embeddings, labels):\n"
        "        return (embeddings - self.proxies[labels]).square().mean()\n"
        "class Euclidean(Own):\n"
        "    metric = 'euclidean'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    loss = make(base="own_bases:Own", novel_classes=3, synthetic_weight=0, realism_weight=0, diversity_weight=0)
    embeddings = random(9, 8, seed=1)
    assert loss(embeddings, LABELS).item() == pytest.approx(embeddings.square().mean().item())
    with pytest.raises(OptionError, match=r"own_bases:Own.*no parameter proxies of shape"):
        make(base="own_bases:Own", base_options={"size": 4})
    with pytest.raises(OptionError, match=r"own_bases:Euclidean.*compares by another metric than cosine"):
        make(base="own_bases:Euclidean")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "proxy_ancor"}, "Did you mean proxy_anchor"),
        ({"base_options": {"marjin": 1}}, "marjin"),
        ({"base": None}, "base of loss 'novel_classes' is None; it must be text"),
        ({"base_options": 3}, "base_options of loss 'novel_classes' is 3; it must be options by name"),
        ({"noise_dim": 1e30}, "noise_dim of loss 'novel_classes' is 1e\\+30; it must be a whole number"),
        ({"base": "novel_classes"}, "'novel_classes' has no parameter proxies"),
        ({"novel_classes": -1}, "novel_classes is -1; it must be at least 0"),
        ({"realism_weight": -0.1}, "realism_weight"),
        ({"synthetic_weight": math.nan}, "synthetic_weight is nan"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"noise_dim": 0}, "noise_dim is 0; it must be at least 1"),
        ({"generator_lr_factor": 0.0}, "generator_lr_factor is 0.0; it must be above 0"),
        ({"novelty": 3}, "novelty"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_loss("novel_classes", num_classes=5, dim=8, **options)


# --- the generator learns ---


def test_generator_learns_the_distribution_of_each_class() -> None:
    # Clusters on the sphere, each with three directions in which it is wide. Four images of a class at a time, and yet
    # generated classes must come out as wide as real ones.
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(12, 16, generator=generator))
    wide = 0.25 * torch.randn(12, 16, 3, generator=generator)

    def images(labels: Tensor) -> Tensor:
        offsets = (wide[labels] @ torch.randn(len(labels), 3, 1, generator=generator)).squeeze(2)
        return normalize(centres[labels] + offsets)

    many = torch.arange(12).repeat_interleave(60)
    real = images(many)
    torch.manual_seed(1)
    loss = NovelClassesLoss(12, 16, novel_classes=6, noise_dim=8, hidden_dim=64)

    def measured() -> tuple[float, float, float, float]:
        with torch.no_grad():
            fake, novel = loss._generate(many), loss._generate(12 + torch.arange(6).repeat_interleave(60))
        everything = energy_distances(novel, torch.zeros(len(novel)), real, torch.zeros(len(real)))
        wanted = spreads(real, many).mean()
        distance = energy_distances(fake, many, real, many).diagonal().mean()
        widths = (
            spreads(fake, many).mean() / wanted,
            spreads(novel, torch.arange(6).repeat_interleave(60)).mean() / wanted,
        )
        return float(distance), float(widths[0]), float(widths[1]), float(everything)

    before, _, _, apart = measured()
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    for step in range(500):
        loss.set_epoch(step // 50, 10)
        labels = torch.randperm(12)[:8].repeat_interleave(4)
        optimizer.zero_grad()
        loss(images(labels), labels).backward()
        optimizer.step()
    after, width, novel_width, still_apart = measured()
    assert 0 < after < before / 10, (before, after)
    assert 0.75 < width < 1.25, width
    assert 0.75 < novel_width < 1.25, novel_width
    assert still_apart < apart / 2, (apart, still_apart)


# --- in training ---


def test_training_end_to_end(photos: Path, tmp_path: Path) -> None:
    options = QUICK | {"epochs": 5, "validation": 0.34}
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", **options)
    assert load_model(folder).embedding_facts.loss == "novel_classes"  # type: ignore[union-attr]
    found = json.loads((folder / "generated.json").read_text())
    assert (found["images"], found["classes"], found["novel_classes"]) == (32, 4, 4)
    # Nothing of the generator is in the model.
    plain = train(
        f"folder:{photos}", tmp_path / "plain", arch="test_resnet", **(options | {"loss": "proxy_anchor", "epochs": 1})
    )
    with safe_open(folder / "model.safetensors", "pt") as ours, safe_open(plain / "model.safetensors", "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
    written = {path.name for path in folder.iterdir()} - {path.name for path in plain.iterdir()}
    assert written == {"generated.json", "generated.png"}


def test_interrupted_and_resumed_equals_uninterrupted(photos: Path, tmp_path: Path, interrupted_in: Any) -> None:
    options = QUICK | {"epochs": 3, "validation": 0.0, "loss_options": {"warmup_epochs": 1, "base": "proxy_nca"}}
    whole = train(f"folder:{photos}", tmp_path / "whole", arch="test_resnet", **options)

    with interrupted_in(2):
        train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    torch.manual_seed(12345)  # whatever the process did before must not matter
    parts = train(f"folder:{photos}", tmp_path / "parts", arch="test_resnet", **options)
    models = load_model(whole), load_model(parts)
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    # The generator too.
    reports = [np.asarray(Image.open(folder / "generated.png")) for folder in (whole, parts)]
    assert np.array_equal(*reports)
    one, other = (json.loads((folder / "generated.json").read_text()) for folder in (whole, parts))
    assert one["energy_distance"] == pytest.approx(other["energy_distance"], abs=1e-5)


def test_report_is_of_the_epoch_that_is_kept(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Tensor]] = []
    kept: list[tuple[np.ndarray, dict[str, Tensor]]] = []
    precisions = iter([0.5, 0.9, 0.7])

    def measured(*arguments: Any) -> Any:
        return SimpleNamespace(average_precision=np.array([next(precisions)]), recall_at=lambda k: 0.5)

    def remember(self: Any) -> None:
        original(self)
        states.append({name: tensor.clone() for name, tensor in self.loss.state_dict().items()})

    def diagnose(self: Any, embeddings: np.ndarray, labels: np.ndarray, folder: Path) -> None:
        kept.append((embeddings, self.state_dict()))

    original = zoo.training.learner.Learner.on_train_epoch_end
    monkeypatch.setattr(zoo.training.learner, "measure", measured)
    monkeypatch.setattr(zoo.training.learner.Learner, "on_train_epoch_end", remember)
    monkeypatch.setattr(NovelClassesLoss, "diagnose", diagnose)
    folder = train(f"folder:{photos}", tmp_path / "t", arch="test_resnet", epochs=3, validation=0.34, **QUICK)
    ((embeddings, state),) = kept
    for name, tensor in state.items():
        assert torch.equal(tensor.cpu(), states[1][name]), name
        assert not torch.equal(tensor.cpu(), states[2][name]), name
    images = load_data(f"folder:{photos}", validation=0.34).train
    np.testing.assert_allclose(embeddings, embed(load_model(folder), images), atol=1e-4)


# --- the report ---


def cluster(labels: Tensor, seed: int) -> Tensor:
    """Return embeddings whose class decides their place, the same for the same class."""
    centres = random(50, 6, seed=1000)[labels % 50]
    return normalize(centres + 0.4 * random(len(labels), 6, seed=seed))


def reported(labels: Tensor, generate: Any, novel_classes: int, folder: Path) -> dict[str, Any]:
    embeddings = 3 * cluster(labels, seed=0)
    classes = int(labels.max()) + 1
    report_generated(embeddings.numpy(), labels.numpy(), generate, classes, novel_classes, folder)
    found: dict[str, Any] = json.loads((folder / "generated.json").read_text())
    return found


def test_a_perfect_generator_and_one_that_has_collapsed(tmp_path: Path) -> None:
    labels = torch.arange(20).repeat(25)
    perfect = reported(labels, lambda y: cluster(y, seed=len(y)), 30, tmp_path)
    distances, width = perfect["energy_distance"], perfect["spread"]
    assert (perfect["images"], perfect["classes"], perfect["novel_classes"]) == (500, 20, 30)
    assert abs(distances["generated_to_real"]) < 0.01 and abs(distances["half_to_other_half"]) < 0.01
    assert distances["real_to_nearest_real"] > 0.1 and distances["novel_to_nearest_real"] > 0.1
    assert width["generated"] == pytest.approx(width["real"], rel=0.05)
    assert width["novel"] == pytest.approx(width["real"], rel=0.15)
    # Novel classes 20..29 are the real classes 0..9 again; every class is a point.
    point = reported(labels, lambda y: cluster(y % 20, seed=0)[:1].expand(len(y), -1), 10, tmp_path)
    assert point["spread"]["generated"] + point["spread"]["novel"] == pytest.approx(0, abs=1e-4)
    assert point["energy_distance"]["generated_to_real"] > 0.3
    copies = reported(labels, lambda y: cluster(y % 20, seed=len(y)), 10, tmp_path)
    assert abs(copies["energy_distance"]["novel_to_nearest_real"]) < 0.02
    with Image.open(tmp_path / "generated.png") as picture:
        assert picture.size == (1320, 600)


def test_report_of_little_and_of_much(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generate = lambda y: cluster(y, seed=3)  # noqa: E731
    with pytest.raises(FileNotFoundError):
        reported(torch.arange(5).repeat(3), generate, 5, tmp_path)
    assert "no class has 4 images" in caplog.text and not list(tmp_path.iterdir())
    broken = np.full((8, 6), np.nan, dtype=np.float32)
    report_generated(broken, np.zeros(8, dtype=np.int64), generate, 1, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    single = reported(torch.zeros(4, dtype=torch.int64), generate, 0, tmp_path)
    assert (single["classes"], single["novel_classes"]) == (1, 0)
    assert (
        single["energy_distance"]["real_to_nearest_real"] is single["energy_distance"]["novel_to_nearest_real"] is None
    )
    assert single["spread"]["novel"] is None
    line = np.linspace(1, 2, 8, dtype=np.float32)[:, None]  # one dimension
    report_generated(line, np.zeros(8, dtype=np.int64), lambda y: torch.ones(len(y), 1), 1, 1, tmp_path)
    much = reported(torch.arange(120).repeat_interleave(40), generate, 300, tmp_path)
    assert (much["images"], much["classes"], much["novel_classes"]) == (3000, 100, 100)


def test_diagnose_leaves_random_numbers_alone_and_repeats_itself(tmp_path: Path) -> None:
    loss, labels = make(), torch.arange(5).repeat(6)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    reports = []
    for _ in range(2):
        loss.diagnose(random(30, 8, seed=1).numpy(), labels.numpy(), tmp_path)
        reports.append((tmp_path / "generated.json").read_text())
    assert torch.equal(torch.rand(4), expected) and reports[0] == reports[1]
