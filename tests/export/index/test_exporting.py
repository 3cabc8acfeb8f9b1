"""index export: vectors for other stores, and the recipes for them in docs/how-to/search.md."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.index.exporting import export_index
from export.index.verbs import build_index, search_index
from export.runtime import Embedder
from zoo.errors import ModelError, OptionError
from zoo.formats.embedding_parts import read_embeddings

parquet = pytest.importorskip("pyarrow.parquet")
RECIPES = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "search.md").read_text(encoding="utf-8")


@pytest.fixture
def encoder(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_onnx(tmp_path / "model.onnx")


@pytest.fixture
def index(encoder: Path, photos: Path, tmp_path: Path) -> Path:
    return build_index(encoder, photos, tmp_path / "index")


def test_parquet_has_ids_vectors_and_the_encoder_s_digest(
    index: Path, encoder: Path, photos: Path, tmp_path: Path
) -> None:
    out = export_index(index, tmp_path / "out", rows_per_part=40)
    assert sorted(file.name for file in out.iterdir()) == [
        "_embeddings.json",
        *(f"part-0000{part}.parquet" for part in range(3)),
    ]
    table = parquet.read_table(out)
    ids = table["id"].to_pylist()
    assert len(ids) == 96 and str(table.schema.field("vector").type) == "fixed_size_list<element: float>[8]"
    vectors = np.stack(table["vector"].to_numpy())
    np.testing.assert_allclose(vectors, Embedder(encoder)([photos / name for name in ids]), rtol=1e-6)
    said = json.loads((index / "index.json").read_text(encoding="utf-8"))["encoder"]
    assert parquet.read_schema(out / "part-00000.parquet").metadata[b"model_digest"].decode() == said["digest"]


def test_an_index_is_built_again_of_what_was_exported_but_not_by_another_encoder(
    index: Path, encoder: Path, photos: Path, tiny_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    out = export_index(index, tmp_path / "out")
    again = build_index(encoder, out, tmp_path / "again")
    query = photos / "class03" / "1.png"
    assert search_index(again, [query], k=5) == search_index(index, [query], k=5)
    with pytest.raises(ModelError, match=r"Their vectors need not be comparable"):
        build_index(tiny_onnx(tmp_path / "other.onnx", seed=1), out, tmp_path / "third")


def test_npy_files_have_their_ids_beside_them(index: Path, tmp_path: Path) -> None:
    facts, whole = read_embeddings(export_index(index, tmp_path / "parquet"))
    out = export_index(index, tmp_path / "npy", format="npy", rows_per_part=50)
    vectors = [np.load(out / f"vectors-0000{part}.npy") for part in range(2)]
    ids = [json.loads((out / f"ids-0000{part}.json").read_text(encoding="utf-8")) for part in range(2)]
    assert [len(part) for part in vectors] == [50, 46] == [len(part) for part in ids]
    np.testing.assert_array_equal(np.concatenate(vectors), whole.vectors)
    assert ids[0] + ids[1] == whole.ids
    said = json.loads((out / "encoder.json").read_text(encoding="utf-8"))
    assert said["model_digest"] == facts.model_digest and said["images"] == 96 and len(list(out.iterdir())) == 5


def test_sq8_is_exported_as_it_is_stored_and_kinds_without_vectors_are_refused(
    encoder: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    index = build_index(encoder, photos, tmp_path / "sq8", kind="sq8")
    _, part = read_embeddings(export_index(index, tmp_path / "out"))
    exact = Embedder(encoder)([photos / name for name in part.ids])
    step = np.ptp(exact, axis=0) / 255
    assert (abs(part.vectors - exact) <= 0.51 * step + 1e-5 * abs(exact)).all() and (part.vectors != exact).any()
    binary = build_index(encoder, photos, tmp_path / "binary", kind="binary")
    with pytest.raises(OptionError, match=r"of kind binary, which does not keep vectors\. Build one of kind flat"):
        export_index(binary, tmp_path / "none")
    with pytest.raises(OptionError, match=r"is not empty\. Choose another out"):
        export_index(index, tmp_path / "out", rows_per_part=10)
    assert export_index(index, tmp_path / "out") == tmp_path / "out"  # the same once more
    assert not (tmp_path / "none").exists()
    (tmp_path / "out" / "_embeddings.json").unlink()
    (tmp_path / "out" / ".stage.0").mkdir()  # as a process leaves it that is killed while its files appear
    _, again = read_embeddings(export_index(index, tmp_path / "out", rows_per_part=10))
    assert again.ids == part.ids and (again.vectors == part.vectors).all()


def test_hnsw_gives_the_vectors_as_they_were(index: Path, encoder: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    hnsw = build_index(encoder, photos, tmp_path / "hnsw", kind="hnsw")
    _, expected = read_embeddings(export_index(index, tmp_path / "flat"))
    _, found = read_embeddings(export_index(hnsw, tmp_path / "out"))
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def recipe(store: str) -> str:
    """Return the code that the page shows under a tab."""
    return textwrap.dedent(re.search(rf'=== "{store}"\n\n    ```python\n(.*?)    ```', RECIPES, flags=re.DOTALL)[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("store", "module"),
    [
        ("faiss", "faiss"),
        ("usearch", "usearch"),
        ("Qdrant", "qdrant_client"),
        ("LanceDB", "lancedb"),
        ("DuckDB", "duckdb"),
    ],
)
def test_recipes_find_what_the_index_finds(
    store: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module)
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query = rows[7] + 0.05 * random.normal(size=16).astype(np.float32)
    query /= np.linalg.norm(query)
    write_vectors(tmp_path / "vectors", rows)
    monkeypatch.chdir(tmp_path)
    known = {"query": query}
    exec(recipe("read"), known)
    exec(recipe(store), known)
    expected = [f"{row}.jpg" for row in np.argsort(-(rows @ query))[:5]]
    assert known["nearest"] == expected


def write_vectors(folder: Path, rows: np.ndarray) -> None:
    from zoo.formats.embedding_parts import EmbeddingFacts, write_facts, write_part

    facts = EmbeddingFacts("m.onnx", "0" * 64, "cosine", rows.shape[1], "float32", "0", len(rows), 40)
    folder.mkdir()
    for part, start in enumerate(range(0, len(rows), 40)):
        chosen = range(start, min(start + 40, len(rows)))
        write_part(folder, part, facts, [f"{row}.jpg" for row in chosen], rows[chosen], None, ())
    write_facts(folder, facts)
