"""Batches: their size, balance and reproducibility, and their shares on several processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo.data.continuous import VectorLabels
from zoo.errors import OptionError
from zoo.training.batches import sampling
from zoo.training.batches.sampling import BatchSampler, DenseTripletSampler, Draw, GlobalBatches


def epoch(sampler: GlobalBatches, number: int = 0) -> list[list[Draw]]:
    sampler.set_epoch(number)
    return list(sampler)


def indices(batches: list[list[Draw]]) -> list[list[int]]:
    return [[index for index, _ in batch] for batch in batches]


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 9), min_size=2, max_size=80).map(np.array),
    batch_size=st.integers(2, 40),
    images_per_class=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@example(labels=np.repeat(np.arange(7), 30), batch_size=20, images_per_class=4, seed=0)  # rounds end within batches
@example(labels=np.repeat(np.arange(3), 5), batch_size=12, images_per_class=4, seed=0)
def test_balanced_batches(labels: np.ndarray, batch_size: int, images_per_class: int, seed: int) -> None:
    images_per_class = min(images_per_class, batch_size)
    batches = indices(epoch(BatchSampler(len(labels), labels, batch_size, images_per_class, seed)))
    size = min(batch_size, len(labels))
    assert len(batches) == len(labels) // size
    wanted = max(size // images_per_class, 1)
    turns: Counter[int] = Counter(dict.fromkeys(labels.tolist(), 0))
    uses: Counter[int] = Counter()
    for batch in batches:
        assert len(batch) == size
        of_class = Counter(labels[batch].tolist())
        assert len(of_class) == min(wanted, len(turns))
        assert max(of_class.values()) - min(of_class.values()) <= 1
        # No image comes twice in a batch unless its class has too few.
        for label, images in of_class.items():
            assert len({i for i in batch if labels[i] == label}) == min(images, (labels == label).sum())
        turns.update(of_class.keys())
        uses.update(batch)
        # Classes come in rounds: none is ever two turns ahead of another.
        assert max(turns.values()) - min(turns.values()) <= 1
    for label in turns:
        # So do the images of a class.
        counts = [uses[i] for i in np.flatnonzero(labels == label).tolist()]
        assert max(counts) - min(counts) <= 1


def test_fewer_classes_than_wanted() -> None:
    labels = np.repeat([3, 7], 30)
    batches = indices(epoch(BatchSampler(60, labels, 20, images_per_class=2)))
    assert len(batches) == 3
    assert sorted(i for batch in batches for i in batch) == list(range(60))
    assert all(Counter(labels[batch].tolist()) == {3: 10, 7: 10} for batch in batches)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 100), batch_size=st.integers(2, 120), seed=st.integers(0, 99))
def test_random_batches_show_each_image_at_most_once(count: int, batch_size: int, seed: int) -> None:
    sampler = BatchSampler(count, None, batch_size, seed=seed)
    batches = indices(epoch(sampler))
    shown = [i for batch in batches for i in batch]
    assert len(batches) == len(sampler)
    assert [len(batch) for batch in batches] == [min(batch_size, count)] * len(batches)
    assert len(set(shown)) == len(shown) > count - batch_size
    assert set(shown) <= set(range(count))


@pytest.mark.parametrize("labels", [None, np.arange(60) % 12])
def test_seed_and_epoch_decide(labels: np.ndarray | None) -> None:
    first = epoch(BatchSampler(60, labels, 12, seed=1), 3)
    assert epoch(BatchSampler(60, labels, 12, seed=1), 3) == first
    others = [epoch(BatchSampler(60, labels, 12, seed=s), e) for s, e in ((1, 4), (2, 3), (3, 1))]
    for other in others:
        assert indices(other) != indices(first)
    # Augmentation seeds differ from image to image and from epoch to epoch.
    seeds = [seed for batches in (first, *others) for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds) == 4 * 60


def test_random_batches_over_epochs_are_uniform() -> None:
    sampler = BatchSampler(10, None, 4, seed=0)
    uses = Counter(i for e in range(1000) for batch in indices(epoch(sampler, e)) for i in batch)
    assert all(abs(uses[i] - 800) < 6 * (1000 * 0.8 * 0.2) ** 0.5 for i in range(10))


def test_lightning_finds_set_epoch() -> None:
    sampler = BatchSampler(60, None, 12)
    sampler.sampler.set_epoch(5)
    assert sampler.epoch == 5


@pytest.mark.parametrize(("batch_size", "processes"), [(12, 2), (12, 3), (13, 2), (14, 4)])
@pytest.mark.parametrize("labels", [None, np.arange(60) % 12])
def test_processes_share_the_global_batch(
    labels: np.ndarray | None, batch_size: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = epoch(BatchSampler(60, labels, batch_size, seed=4), 2)
    monkeypatch.setattr(sampling.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(sampling.distributed, "get_world_size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(sampling.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(epoch(BatchSampler(60, labels, batch_size, seed=4), 2))
    counts = BatchSampler(60, labels, batch_size).images_of_ranks(processes)
    assert max(counts) - min(counts) <= 1 and counts[0] == max(counts)
    for batch, *local in zip(whole, *parts, strict=True):
        assert [len(part) for part in local] == counts
        assert sorted(draw for part in local for draw in part) == sorted(batch)


def test_a_process_without_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(sampling.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(sampling.distributed, "get_rank", lambda: 0)
    with pytest.raises(OptionError, match="A batch has 3 images, and 4 processes need one each"):
        epoch(BatchSampler(60, None, 3), 0)


@pytest.mark.parametrize(
    ("batch_size", "images_per_class", "message"),
    [(1, 1, "batch_size is 1"), (8, 0, "images_per_class is 0"), (8, 9, r"1\.\.batch_size \(8\)")],
)
def test_options_that_cannot_work(batch_size: int, images_per_class: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        BatchSampler(60, None, batch_size, images_per_class)


# --- dense triplet mining ---


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(3, 60),
    batch_size=st.integers(3, 30),
    neighbours=st.integers(1, 6),
    ties=st.booleans(),
    number=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_dense_batches(count: int, batch_size: int, neighbours: int, ties: bool, number: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, 3, count).astype(float) if ties else generator.normal(size=count)
    size = min(batch_size, count)
    neighbours = min(neighbours, size - 2)
    sampler = DenseTripletSampler(VectorLabels(numbers), batch_size, neighbours, seed) if neighbours else None
    if sampler is None:
        return
    batches = indices(epoch(sampler, number))
    assert len(batches) == len(sampler) == count // size
    for batch in batches:
        assert len(batch) == len(set(batch)) == size and set(batch) <= set(range(count))
        distances = np.abs(numbers - numbers[batch[0]])
        distances[batch[0]] = np.inf
        near = np.sort(distances[batch[1 : neighbours + 1]])
        assert near.tolist() == np.sort(distances)[:neighbours].tolist()


def test_anchors_come_in_rounds_that_go_on_over_epochs() -> None:
    sampler = DenseTripletSampler(VectorLabels(np.arange(10.0)), 4, 1, seed=3)  # two batches an epoch
    anchors = [batch[0] for number in range(15) for batch in indices(epoch(sampler, number))]
    rounds = [anchors[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(order) == list(range(10)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 3
    uneven = DenseTripletSampler(VectorLabels(np.arange(10.0)), 3, 1, seed=3)  # three, so rounds end within epochs
    anchors = [batch[0] for number in range(10) for batch in indices(epoch(uneven, number))]
    assert Counter(anchors) == dict.fromkeys(range(10), 3)


def test_the_rest_of_a_dense_batch_is_uniform_and_ties_are_drawn() -> None:
    # Image 0 at 0; 1, 2 and 3 tie at 1; the others far away.
    sampler = DenseTripletSampler(VectorLabels(np.array([0.0, 1, 1, 1, 50, 60, 70, 80, 90, 100])), 5, 2, seed=0)
    near: Counter[int] = Counter()
    rest: Counter[int] = Counter()
    for number in range(4000):
        for batch in indices(epoch(sampler, number)):
            if batch[0] == 0:
                near.update(batch[1:3])
                rest.update(batch[3:])
    turns = sum(near.values()) / 2
    assert turns == 800
    assert set(near) == {1, 2, 3} and all(abs(near[i] - turns * 2 / 3) < 80 for i in near)
    assert set(rest) == set(range(1, 10)) and all(abs(rest[i] - turns * 2 / 7) < 80 for i in range(4, 10))


def test_seed_and_epoch_decide_dense_batches() -> None:
    labels = VectorLabels(np.arange(60.0))
    first = epoch(DenseTripletSampler(labels, 12, seed=1), 3)
    assert epoch(DenseTripletSampler(labels, 12, seed=1), 3) == first
    for s, e in ((1, 4), (2, 3), (3, 1)):
        assert indices(epoch(DenseTripletSampler(labels, 12, seed=s), e)) != indices(first)


@pytest.mark.parametrize(("batch_size", "processes"), [(12, 2), (12, 3), (13, 2)])
def test_processes_share_the_dense_batch_and_its_anchor(
    batch_size: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = VectorLabels(np.random.default_rng(0).normal(size=(60, 2)))
    whole = epoch(DenseTripletSampler(labels, batch_size, seed=4), 2)
    monkeypatch.setattr(sampling.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(sampling.distributed, "get_world_size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(sampling.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(epoch(DenseTripletSampler(labels, batch_size, seed=4), 2))
    for batch, *local in zip(whole, *parts, strict=True):
        joined = [draw for part in local for draw in part]  # as gathered, process by process
        assert joined[0] == batch[0]
        assert sorted(joined) == sorted(batch)


@pytest.mark.parametrize(
    ("count", "batch_size", "neighbours", "message"),
    [
        (60, 2, 1, "batch_size is 2, and there are 60 images; an anchor and two others need 3"),
        (2, 12, 1, "batch_size is 12, and there are 2 images"),
        (60, 8, 0, r"neighbours is 0; it must lie in 1\.\.6"),
        (60, 8, 7, r"neighbours is 7; it must lie in 1\.\.6, so that a batch of 8 has others too"),
        (5, 8, 4, r"neighbours is 4; it must lie in 1\.\.3"),
    ],
)
def test_dense_options_that_cannot_work(count: int, batch_size: int, neighbours: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DenseTripletSampler(VectorLabels(np.arange(float(count))), batch_size, neighbours)
