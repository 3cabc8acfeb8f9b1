"""Rows of a report besides the models: indexes and mixed pairs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from export import Embedder, to_onnx, validate
from export.index.vector_index import make_index
from export.report.measured_models import MeasuredModel
from export.report.searches import all_searches, finding
from zoo import ModelError, OptionError, load_data
from zoo.data import DataSplits, ImageSet
from zoo.data.image_set import GALLERY, QUERY
from zoo.retrieval.measures import measure_found
from zoo.retrieval.protocol import exact

OPTIONS: dict[str, Any] = {"bootstrap": 50, "latency_runs": 2}


@pytest.fixture(scope="module")
def artefact(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_onnx(tiny_teacher, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def noisy(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same student with its weights disturbed, as int8 would."""
    model = onnx.load(artefact)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if weights.dtype == np.float32 and weights.ndim == 4:
            disturbed = weights * (1 + 0.25 * random.normal(size=weights.shape))
            tensor.CopyFrom(onnx.numpy_helper.from_array(disturbed.astype(np.float32), tensor.name))
    entries = {entry.key: entry.value for entry in model.metadata_props} | {"precision": "int8"}
    del entries["content_digest"]
    onnx.helper.set_model_props(model, entries)
    path = tmp_path_factory.mktemp("noisy") / "noisy.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def images(photos: Path) -> ImageSet:
    return load_data(f"folder:{photos}", "all-test").test


def embedded(model: Path, images: ImageSet) -> np.ndarray:
    return np.asarray(Embedder(model)(images.pixels(i) for i in range(len(images))))


def stages(content: dict[str, Any]) -> dict[str, Any]:
    return {stage["stage"]: stage for stage in content["stages"]}


def test_indexes_are_measured_through_their_search(
    photos: Path, tiny_teacher: Path, artefact: Path, images: ImageSet, tmp_path: Path
) -> None:
    report = validate(
        [tiny_teacher, artefact],
        tiny_teacher,
        f"folder:{photos}",
        tmp_path,
        split="all-test",
        index="flat, sq8,binary",
        min_retention=0.5,
        **OPTIONS,
    )
    rows = stages(report.content)
    names = ["onnx-fp32 + flat", "onnx-fp32 + sq8", "onnx-fp32 + binary"]
    assert list(rows) == ["teacher", "student", "onnx-fp32", *names]
    model, measured = rows["onnx-fp32"], ("recall", "r_precision", "map_at_r")
    for name in names:
        for key in ("source", "parameters", "bytes", "dim", "metric", "latency_ms", "runtime"):
            assert rows[name][key] == model[key]
        assert rows[name]["index"]["kind"] == name.split()[-1] and rows[name]["index"]["of"] == "onnx-fp32"
        assert rows[name]["index"]["ms_per_query"] > 0
    for key in measured:
        assert rows["onnx-fp32 + flat"][key] == pytest.approx(model[key], abs=1e-6)
    assert [rows[name]["index"]["bytes_per_vector"] for name in names] == [4 * 32, 32, 32 + 4]
    assert rows[names[2]]["index"]["parameters"] == {"overfetch": 10}

    # Ten times the largest K are more than all: binary is sq8, whose codes are compared here by hand.
    vectors = embedded(artefact, images)
    if model["metric"] == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    kept = low + (high - low) * (np.floor((vectors - low) / (high - low) * np.float32(255)) + 0.5) / 255
    of_codes = measure_found(exact(vectors, images, "euclidean", gallery=kept), images).summary()
    for name in names[1:]:
        for key in measured:
            assert rows[name][key] == pytest.approx(of_codes[key], abs=0.011)  # one query of 96
    assert rows[names[1]]["neighbour_overlap"] == pytest.approx(model["neighbour_overlap"], abs=0.05)


def test_a_deep_search_begins_as_the_shallow_one() -> None:
    # MAP@R looks at as many images as a class has; what Recall@K is measured on must be what a search for K finds.
    count, k = 600, 4
    vectors = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    images = ImageSet([str(i) for i in range(count)], [pixels] * count, np.arange(count) % 2, ["a", "b"])
    model = MeasuredModel("student", "", lambda images: vectors, None, "euclidean", 16, None, None, "")
    rows = np.arange(count)
    for search in list(all_searches([model], [], ["binary", "hnsw", "flat"], images, k=k, runs=0, seed=0))[1:]:
        found = search.find(rows, 300, rows)
        shallow = make_index(vectors, search.more["index"]["kind"], "euclidean").search(vectors, k, rows)[1]
        np.testing.assert_array_equal(found[:, :k], shallow)
        np.testing.assert_array_equal(search.find(rows, 2, rows), shallow[:, :2])
        assert all(len(set(row)) == 300 and query not in row for query, row in enumerate(found.tolist()))


def test_neighbours_of_an_index_that_finds_fewer_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.array([[4, 5, 6, -1, -1], [1, 2, -1, -1, -1], [1, 2, 3, 4, 5]])
    deep = np.array([[4, 5, 6, -1, -1, -1, -1], [2, 1, 7, -1, -1, -1, -1], [9, 1, 8, 3, 4, 5, 2]])

    def search(vectors: np.ndarray, k: int, own: np.ndarray, as_for: int | None = None) -> tuple[None, np.ndarray]:
        return None, near if as_for is None else deep

    index = SimpleNamespace(search=search, parameters={}, bytes_per_vector=4, fixed_bytes=0)
    monkeypatch.setattr("export.report.searches.make_index", lambda *args, **options: index)
    monkeypatch.setattr("export.report.searches.milliseconds_per_query", lambda *args: None)
    vectors, pixels = np.zeros((10, 1), np.float32), np.zeros((1, 1, 3), dtype=np.uint8)
    images = ImageSet([str(i) for i in range(10)], [pixels] * 10, np.arange(10) % 2, ["a", "b"])
    model = MeasuredModel("student", "", lambda images: vectors, None, "euclidean", 1, None, None, "")
    _, indexed = all_searches([model], [], ["hnsw"], images, k=5, runs=0, seed=0)
    found = indexed.find(np.arange(3), 7, np.arange(3))
    assert found.tolist() == [[4, 5, 6, -1, -1, -1, -1], [1, 2, 7, -1, -1, -1, -1], [1, 2, 3, 4, 5, 9, 8]]


def test_indexes_hold_the_gallery_alone(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    images = load_data(f"folder:{photos}", "all-test").test
    roles = np.array([QUERY if i % 8 < 2 else GALLERY for i in range(len(images))], dtype=object)
    split = ImageSet(images.ids, images.sources, images.labels, images.class_names, roles)
    none = split.subset([])
    data = DataSplits("roles", none, none, split)
    content = validate([artefact], tiny_teacher, data, tmp_path, index=["flat"], **OPTIONS).content
    assert (content["data"]["queries"], content["data"]["gallery"]) == (24, 72)
    rows = stages(content)
    for key in ("recall", "r_precision", "map_at_r", "retention"):
        assert rows["onnx-fp32 + flat"][key] == rows["onnx-fp32"][key]


def test_a_mixed_pair_against_its_definition(
    photos: Path, tiny_teacher: Path, artefact: Path, noisy: Path, images: ImageSet, tmp_path: Path
) -> None:
    report = validate(
        [artefact],
        tiny_teacher,
        f"folder:{photos}",
        tmp_path,
        split="all-test",
        query_encoder=noisy,
        gallery_encoder=str(artefact),
        **OPTIONS,
    )
    rows = stages(report.content)
    assert list(rows) == ["teacher", "onnx-int8", "onnx-fp32", "onnx-int8 → onnx-fp32"]  # the last model given is last
    pair = rows["onnx-int8 → onnx-fp32"]
    assert pair["source"] == f"{rows['onnx-int8']['source']} → {rows['onnx-fp32']['source']}"
    assert not any(Path(row["source"]).is_absolute() for row in rows.values())
    query, gallery = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (embedded(noisy, images), embedded(artefact, images))
    )
    if pair["metric"] == "euclidean":
        distances = np.linalg.norm(embedded(noisy, images)[:, None] - embedded(artefact, images)[None], axis=2)
    else:
        distances = -query @ gallery.T
    np.fill_diagonal(distances, np.inf)
    assert images.labels is not None
    right = images.labels[distances.argmin(axis=1)] == images.labels
    assert pair["recall"]["1"] == pytest.approx(right.mean(), abs=1e-9)
    assert pair["retention"] == pytest.approx(right.mean() / rows["teacher"]["recall"]["1"])
    assert pair["pair"]["agreement"] == pytest.approx((query * gallery).sum(axis=1).mean(), abs=1e-5)
    assert pair["pair"]["agreement"] < 0.999
    for key in ("bytes", "parameters", "latency_ms"):
        assert pair[key] == rows["onnx-int8"][key]
    pure = sorted(rows[name]["recall"]["1"] for name in ("onnx-int8", "onnx-fp32"))
    assert pair["pair"]["between"] == (pure[0] <= pair["recall"]["1"] <= pure[1])
    assert pair["pair"]["finding"] in (tmp_path / "report.html").read_text()


def test_a_pair_of_one_model_is_that_model(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    report = validate(
        [], tiny_teacher, f"folder:{photos}", tmp_path, query_encoder=artefact, gallery_encoder=artefact, **OPTIONS
    )
    rows = stages(report.content)
    assert list(rows) == ["teacher", "onnx-fp32", "onnx-fp32 → onnx-fp32"]
    alone, pair = rows["onnx-fp32"], rows["onnx-fp32 → onnx-fp32"]
    own = ("stage", "source", "step")
    assert {key: pair[key] for key in alone if key not in own} == {
        key: value for key, value in alone.items() if key not in own
    }
    assert pair["pair"]["agreement"] == pytest.approx(1) and pair["pair"]["between"]


def test_pairs_and_indexes_by_label_distance(spots: Path, spot_teacher: Path, tmp_path: Path) -> None:
    report = validate(
        [spot_teacher],
        spot_teacher,
        f"csv:{spots / 'images.csv'}",
        tmp_path,
        continuous_labels=spots / "positions.csv",
        index=["flat", "hnsw"],
        query_encoder=spot_teacher,
        gallery_encoder=spot_teacher,
        **OPTIONS,
    )
    rows = stages(report.content)
    assert list(rows) == ["teacher", "student", "student → student", "student + flat", "student + hnsw"]
    for row in rows.values():
        assert row["ndcg"]["10"] == pytest.approx(rows["teacher"]["ndcg"]["10"], abs=1e-6)
    assert rows["student → student"]["pair"]["finding"].startswith("nDCG@10 of student → student (")


def scores(hits: int) -> np.ndarray:
    return np.arange(100) < hits


PAIR = {"query": "int8", "gallery": "fp32", "agreement": 0.98765}


def test_finding_between() -> None:
    found = finding("both", PAIR, {"int8": scores(80), "fp32": scores(90), "both": scores(85)}, "Recall@1", 100, 0)
    assert found == {
        "between": True,
        "finding": "Recall@1 of both (85.00 %) is between those of int8 (80.00 %) and fp32 (90.00 %).",
    }


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        (40, "is below those of fp32 (80.00 %) and int8 (90.00 %). The interval of its ratio to that of fp32 is [0."),
        (99, "is above those of fp32 (80.00 %) and int8 (90.00 %). The interval of its ratio to that of int8 is [1."),
    ],
)
def test_finding_beyond_what_queries_explain(hits: int, said: str) -> None:
    found = finding("both", PAIR, {"int8": scores(90), "fp32": scores(80), "both": scores(hits)}, "Recall@1", 500, 0)
    assert found["between"] is False and said in found["finding"]
    assert "more than the choice of queries makes" in found["finding"] and "mean cosine 0.9877" in found["finding"]


def test_finding_that_chance_can_explain() -> None:
    random = np.random.default_rng(0)
    of_each = {name: random.permutation(scores(hits)) for name, hits in (("int8", 80), ("fp32", 82), ("both", 79))}
    found = finding("both", PAIR, of_each, "nDCG@10", 500, 0)
    assert "nDCG@10 of both (79.00 %) is below" in found["finding"]
    assert found["finding"].endswith("the choice of queries alone can make such a difference.")


def test_mistakes_are_named(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    data = f"folder:{photos}"
    model = onnx.load(artefact)
    entries = {entry.key: entry.value for entry in model.metadata_props} | {"dim": "16"}
    del entries["content_digest"]
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, tmp_path / "other.onnx")

    def refused(error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            validate([artefact], tiny_teacher, data, tmp_path / "r", **options)

    refused(OptionError, "Only one encoder of a mixed pair", query_encoder=artefact)
    refused(ModelError, r"gone\.onnx", query_encoder=artefact, gallery_encoder=tmp_path / "gone.onnx")
    refused(
        ModelError,
        r"query_encoder .*model\.onnx has dim 32, but gallery_encoder .*other\.onnx has 16",
        query_encoder=artefact,
        gallery_encoder=tmp_path / "other.onnx",
    )
    refused(OptionError, "'sq4'; known are flat, .* Did you mean sq8", index="flat,sq4")
    refused(OptionError, r"at least 256 vectors.* there are 48", index=["ivfpq"])
    assert not (tmp_path / "r").exists()
