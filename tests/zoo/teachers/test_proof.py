"""Teachers are distinguished from chance, by classes and by continuous labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from export.onnx.tracing import smooth_images
from zoo import load_data, load_model, measure
from zoo.data.continuous import VectorLabels
from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError
from zoo.models.embedding import embed
from zoo.models.facts import facts_of
from zoo.retrieval.label_measures import measure_by_labels
from zoo.teachers.base import Teacher
from zoo.teachers.opening import open_teacher
from zoo.teachers.proof import _bound, proof_by_class, prove_teacher
from zoo.teachers.ready import ArrayTeacher


def noise(images: ImageSet, seed: int) -> Teacher:
    rows = np.random.default_rng(seed).normal(size=(len(images), 8))
    return ArrayTeacher(dict(zip(images.ids, rows, strict=True)))


def test_a_teacher_no_better_than_chance_is_refused(photos: Path) -> None:
    images = load_data(f"folder:{photos}", validation=0.34).train
    for seed in range(5):
        with pytest.raises(ModelError, match=r"no better than chance: Recall@1 .* chance .* queries"):
            prove_teacher(noise(images, seed), images)


def test_random_teachers_do_not_pass_with_few_images_either() -> None:
    # Of random teachers of 20 images in pairs, 1.3 % have 4 hits, since hits come in twos; of a binomial's, three
    # standard errors above chance are 3.9.
    ids, blank = [str(i) for i in range(20)], [np.zeros((8, 8, 3), np.uint8)] * 20
    pairs = ImageSet(ids, blank, np.arange(20) // 2, [str(i) for i in range(10)])
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(20, 8)).astype(np.float32)
        proof = proof_by_class(measure(rows, pairs), pairs)
        assert proof.fault and proof.sure and 0.2 <= proof.bound <= 0.4


def test_the_bound_is_what_a_stated_share_exceeds() -> None:
    scores = np.random.default_rng(0).permutation(2000) / 2000
    assert _bound(scores, 0.5) == 1998 / 2000  # one of 2001 reaches a score above it, counted with itself two
    few = np.random.default_rng(0).normal(0.5, 0.01, 30)
    assert _bound(few, 0.5) == pytest.approx(
        0.5 + stats.t.ppf(1 - 0.00135, 29) * np.sqrt(31 / 30) * few.std(ddof=1), 1e-3
    )


def test_a_good_teacher_passes(photos: Path, tiny_teacher: Path) -> None:
    images = load_data(f"folder:{photos}", validation=0.34).test
    model = load_model(tiny_teacher)
    rows = embed(model, images, progress=False)
    result = prove_teacher(open_teacher(tiny_teacher), images)
    expected = measure(rows, images, facts_of(model).metric)
    assert result == {"recall_at_1": expected.recall_at(1), "map_at_r": float(expected.average_precision.mean())}
    assert expected.recall_at(1) > 0.8


def test_a_teacher_no_better_than_thumbnails_is_warned_of(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = load_data(f"folder:{photos}", validation=0.34).test
    assert images.labels is not None
    # So much noise on the classes that it is far above chance, and below the thumbnails' near 1.
    rows = np.eye(6)[np.unique(images.labels, return_inverse=True)[1]]
    rows += np.random.default_rng(0).normal(0, 0.5, size=rows.shape)
    teacher = ArrayTeacher(dict(zip(images.ids, rows, strict=True)))
    result = prove_teacher(teacher, images)
    assert 0.3 < result["recall_at_1"] < 0.9
    assert "worse than comparing 8 x 8 thumbnails (Recall@1 " in caplog.text
    assert caplog.messages[-1].endswith("%). Check that its weights are loaded.")


def test_teachers_are_proved_by_continuous_labels_where_there_are_no_classes(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = load_data(f"folder:{photos}", "all-test").test.without_labels()
    numbers = np.random.default_rng(0).normal(size=(len(plain), 2))
    images = replace(plain, continuous=VectorLabels(numbers))
    rows = numbers + np.random.default_rng(1).normal(0, 0.3, size=numbers.shape)
    good = ArrayTeacher(dict(zip(images.ids, rows, strict=True)), metric="euclidean")
    expected = measure_by_labels(rows.astype(np.float32), images, "euclidean").ndcg_at(10)
    assert prove_teacher(good, images) == {"ndcg_at_10": expected}
    assert f"has nDCG@10 {100 * expected:.2f} % on 96 queries (chance 5" in caplog.text
    assert "worse than" not in caplog.text
    for seed in range(5):
        with pytest.raises(ModelError, match=r"no better than chance: nDCG@10 0.*, chance 0\.5.*, 96 queries"):
            prove_teacher(noise(images, seed), images)
    # Classes come first.
    labelled = replace(load_data(f"folder:{photos}", "all-test").test, continuous=VectorLabels(numbers))
    with pytest.raises(ModelError, match=r"no better than chance: Recall@1"):
        prove_teacher(good, labelled)


def test_labels_that_tell_nothing_apart_cannot_prove_a_teacher(photos: Path) -> None:
    plain = load_data(f"folder:{photos}", "all-test").test.without_labels()
    images = replace(plain, continuous=VectorLabels(np.ones(len(plain))))
    with pytest.raises(DataError, match="By their continuous labels, all orders of the 96 images are equally good"):
        prove_teacher(noise(images, 0), images)


def test_a_teacher_no_better_than_thumbnails_by_continuous_labels_is_warned_of(
    spots: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = load_data(f"csv:{spots / 'images.csv'}", continuous_labels=spots / "positions.csv").test
    assert images.continuous is not None
    places = images.continuous.distances(np.arange(len(images)), np.arange(3))
    rows = places + np.random.default_rng(0).normal(0, 0.15, size=places.shape)
    teacher = ArrayTeacher(dict(zip(images.ids, rows, strict=True)), metric="euclidean")
    score = prove_teacher(teacher, images)["ndcg_at_10"]
    assert "worse than comparing 8 x 8 thumbnails (nDCG@10" in caplog.text and score < 0.9


def test_a_perfect_teacher_of_few_images_passes_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.array([0, 0, 1, 1])
    images = ImageSet(list("abcd"), list(smooth_images(4)), labels, ["x", "y"])
    good = ArrayTeacher({name: np.eye(2)[label] for name, label in zip(images.ids, labels, strict=True)})
    assert prove_teacher(good, images) == {"recall_at_1": 1.0, "map_at_r": 1.0}
    assert "4 queries are too few to tell the teacher (embeddings) from chance" in caplog.text
    bad = ArrayTeacher({name: np.eye(2)[i % 2] for i, name in enumerate(images.ids)})
    with pytest.raises(ModelError, match="no better than chance"):
        prove_teacher(bad, images)
    with pytest.raises(DataError, match=r"fewer than two classes \('x' only\)"):
        prove_teacher(good, images.subset([0, 1]))
