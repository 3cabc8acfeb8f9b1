"""A folder of Parquet files: whole parts, and the same rows whichever process writes them and despite interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from PIL import Image

import export.embedding.parts
from compressor import distill
from export import build_index, embed_data, search_index, validate
from export.runtime import Embedder
from zoo.data import load_images
from zoo.errors import DataError, MissingExtraError, ModelError, OptionError
from zoo.formats.embedding_parts import (
    METADATA_KEY,
    EmbeddingFacts,
    read_embeddings,
    read_facts,
    write_facts,
    write_part,
)
from zoo.teachers.opening import open_teacher

pyarrow = pytest.importorskip("pyarrow", reason="extra data is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def model(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_onnx(tmp_path / "model.onnx")


def parts_of(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.parquet"))


def test_rows_are_the_images_in_order(model: Path, photos: Path, tmp_path: Path) -> None:
    out = embed_data(model, f"folder:{photos}", tmp_path / "vectors", rows_per_part=40)
    assert parts_of(out) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    images = load_images(f"folder:{photos}", labelled=True)
    table = parquet.read_table(out / "part-00001.parquet")
    assert table.column("id").to_pylist() == list(images.ids[40:80])
    assert images.labels is not None
    assert table.column("label").to_pylist() == [images.class_names[label] for label in images.labels[40:80]]
    assert table.column("label")[0].as_py() == images.ids[40].split("/")[0]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 8)
    assert table.schema.metadata[b"dim"] == b"8"
    assert table.schema.metadata[b"metric"].decode() == Embedder(model).metric
    _, part = read_embeddings(out)
    assert part.ids == list(images.ids)
    expected = Embedder(model)([images.pixels(row) for row in range(len(images))])
    np.testing.assert_allclose(part.vectors, expected, rtol=1e-5, atol=1e-7)
    assert (out / "_unreadable.tsv").read_text() == ""


def test_half_precision(model: Path, photos: Path, tmp_path: Path) -> None:
    whole = embed_data(model, photos, tmp_path / "whole")
    half = embed_data(model, photos, tmp_path / "half", dtype="float16")
    vector = parquet.read_table(half / "part-00000.parquet").schema.field("vector").type
    assert vector == pyarrow.list_(pyarrow.float16(), 8)
    np.testing.assert_allclose(
        read_embeddings(half)[1].vectors, read_embeddings(whole)[1].vectors, rtol=1e-3, atol=1e-4
    )


def test_shards_are_the_parts_of_one_run(model: Path, photos: Path, tmp_path: Path) -> None:
    whole = embed_data(model, photos, tmp_path / "whole", rows_per_part=20)
    for shard in ("2/2", "1/2"):
        shared = embed_data(model, photos, tmp_path / "shared", rows_per_part=20, shard=shard)
        if shard == "2/2":
            assert parts_of(shared) == ["part-00001.parquet", "part-00003.parquet"]
            with pytest.raises(DataError, match=r"lacks 3 of its 5 parts, such as part-00000\.parquet"):
                open_teacher(shared)
    for name in parts_of(whole):
        assert (whole / name).read_bytes() == (shared / name).read_bytes()


def test_an_interrupted_run_goes_on_with_the_same_rows(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed_data(model, photos, tmp_path / "whole", rows_per_part=20)
    write, written = export.embedding.parts.write_part, []

    def interrupted(folder: Path, part: int, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        write(folder, part, *rest)

    monkeypatch.setattr(export.embedding.parts, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_data(model, photos, tmp_path / "twice", rows_per_part=20)
    damaged = tmp_path / "twice" / "part-00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[content.index(b"class") + 200] ^= 4
    damaged.write_bytes(content)
    written.clear()
    monkeypatch.setattr(export.embedding.parts, "write_part", lambda *of: (written.append(of[1]), write(*of)))
    embed_data(model, photos, tmp_path / "twice", rows_per_part=20)
    assert written == [1, 2, 3, 4]  # the damaged one, and those that were missing
    for name in parts_of(whole):
        assert (whole / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_unreadable_images_are_listed(model: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"broken")
    out = embed_data(model, folder, tmp_path / "vectors", rows_per_part=3)
    assert read_embeddings(out)[1].ids == ["0.png", "1.png", "2.png", "4.png", "5.png", "6.png"]
    (line,) = (out / "_unreadable.tsv").read_text().splitlines()
    name, reason = line.split("\t")
    assert name == "3.png"
    assert "not a readable image" in reason or "cannot" in reason
    assert parquet.read_metadata(out / "part-00001.parquet").num_rows == 2
    for _ in range(2):
        with pytest.raises(DataError, match=r"limit is 0.*3\.png"):
            embed_data(model, folder, tmp_path / "none", rows_per_part=3, max_unreadable=0)
    assert parts_of(tmp_path / "none") == ["part-00000.parquet"]
    (folder / "6.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^2 images cannot be read; the limit is 1.*6\.png"):
        embed_data(model, folder, tmp_path / "one", rows_per_part=3, max_unreadable=1)
    with pytest.raises(DataError, match=r"^2 images"):  # of which one is in a part that is there
        embed_data(model, folder, tmp_path / "one", rows_per_part=3, max_unreadable=1)


def test_other_embeddings_are_not_mixed_in(
    model: Path, tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    out = embed_data(model, photos, tmp_path / "vectors", rows_per_part=50)
    with pytest.raises(OptionError, match="has embeddings with rows_per_part 50, and 60 is asked for"):
        embed_data(model, photos, out, rows_per_part=60)
    with pytest.raises(OptionError, match="has embeddings with images_digest"):
        embed_data(model, photos / "class00", out, rows_per_part=50)
    facts = json.loads((out / "_embeddings.json").read_text())
    (out / "_embeddings.json").write_text(json.dumps(facts | {"metric": "cosine"}))
    with pytest.raises(DataError, match="its digest is"):
        read_facts(out)


def test_teachers_models_and_galleries_are_read_from_it(
    model: Path, photos: Path, tmp_path: Path, distil_options: dict[str, Any]
) -> None:
    data = f"folder:{photos}"
    out = embed_data(model, data, tmp_path / "vectors", rows_per_part=50)
    images = load_images(data)
    np.testing.assert_allclose(
        open_teacher(out).embed_images(images), open_teacher(model).embed_images(images), rtol=1e-4, atol=1e-6
    )
    options: dict[str, Any] = {"latency_runs": 0, "baselines": False, "bootstrap": 50}
    report = validate([model, out], None, data, tmp_path / "report", **options)
    first, second = report.content["stages"]
    assert first["recall"] == second["recall"]
    judged = validate([model], out, data, tmp_path / "by-teacher", **options)
    teacher, same = judged.content["stages"]
    assert teacher["recall"] == same["recall"] == first["recall"]
    options = distil_options | {"arch": "test_resnet", "dim": 4, "epochs": 1}
    student = distill(out, data, tmp_path / "student", **options)
    learned_from = json.loads((student / "config.json").read_text())["embedding_compressor"]["teacher"]
    assert learned_from == {"name": "vectors", "digest": open_teacher(out).digest}
    index = build_index(model, str(out), tmp_path / "index")
    direct = build_index(model, data, tmp_path / "direct")
    query = photos / "class01" / "0.png"
    assert search_index(index, [query], k=3) == search_index(direct, [query], k=3)


def test_a_gallery_by_another_encoder_is_refused(
    model: Path, tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    out = embed_data(model, photos, tmp_path / "vectors")
    other = tiny_onnx(tmp_path / "other.onnx", precision="fp16")
    with pytest.raises(ModelError, match=r"has embeddings by model\.onnx .* need not be comparable"):
        build_index(other, str(out), tmp_path / "index")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 10**18}, "lacks 1999999999999999[0-9]+ of its 2000000000000000[0-9]+ parts"),
        ({"images": 10**18, "rows_per_part": 10**18}, "part-00000.parquet cannot be used: it has images 3"),
        ({"dim": 2**20}, "part-00000.parquet cannot be used: it has dim 4"),
    ],
)
def test_facts_that_no_part_has_are_refused_early(changed: dict[str, int], message: str, tmp_path: Path) -> None:
    facts = EmbeddingFacts("m", "0", "cosine", 4, "float32", "1", 3, 5)
    write_part(tmp_path, 0, facts, ["a", "b", "c"], np.eye(3, 4), None, ())
    write_facts(tmp_path, replace(facts, **changed))
    with pytest.raises(DataError, match=message):
        read_embeddings(tmp_path)


def test_parts_that_hold_less_than_they_say_are_refused(tmp_path: Path) -> None:
    facts = EmbeddingFacts("m", "0", "cosine", 4, "float32", "1", 10**6, 10**6)
    write_facts(tmp_path, facts)
    write_part(tmp_path, 0, facts, ["a"], np.eye(1, 4), None, ())
    schema = parquet.read_schema(tmp_path / "part-00000.parquet")
    zeros = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(4 * 10**6, np.float32)), 4)
    names = pyarrow.array(["a"] * 10**6)
    table = pyarrow.table([names, zeros], schema=schema)
    parquet.write_table(table, tmp_path / "part-00000.parquet", compression="zstd")
    with pytest.raises(DataError, match=r"cannot be used: it says 1000000 rows of 4 dimensions, in \d+ bytes"):
        read_embeddings(tmp_path)
    for said in (b"[]", b"[" * 100_000, b"\xff"):
        parquet.write_table(
            table.slice(0, 1).replace_schema_metadata({METADATA_KEY: said}), tmp_path / "part-00000.parquet"
        )
        with pytest.raises(DataError, match=r"part-00000\.parquet cannot be used"):
            read_embeddings(tmp_path)


def test_faiss_pandas_and_duckdb_open_it(model: Path, photos: Path, tmp_path: Path) -> None:
    out = embed_data(model, photos, tmp_path / "vectors", rows_per_part=50)
    table = parquet.read_table(out)  # all parts
    vectors = np.stack(table.column("vector").to_numpy())
    flat = faiss.IndexFlatL2(8)
    flat.add(np.ascontiguousarray(vectors))
    assert flat.search(vectors[:5], 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(out / "part-00000.parquet")
    assert len(frame) == 50
    assert frame["vector"][0].shape == (8,)
    duckdb = pytest.importorskip("duckdb")
    counted = duckdb.sql(f"select count(*) from '{out}/*.parquet' where len(vector) = 8").fetchall()
    assert counted == [(96,)]


@pytest.mark.parametrize(
    "options",
    [{"shard": "0/2"}, {"shard": "3/2"}, {"shard": "half"}, {"dtype": "int8"}, {"engine": "spark"}, {"processes": 2}],
)
def test_options_that_cannot_be(options: dict[str, Any], model: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        embed_data(model, photos, tmp_path / "vectors", **options)
    with pytest.raises(OptionError, match="is one file"):
        embed_data(model, photos, tmp_path / "vectors.npz", shard="1/2")


def test_ray_is_asked_for_where_it_is_missing(
    model: Path, photos: Path, tmp_path: Path, without: Callable[..., AbstractContextManager[None]]
) -> None:
    with (
        without("ray"),
        pytest.raises(MissingExtraError, match=r"^Engine ray needs ray, .*embedding-compressor\[ray\]'$"),
    ):
        embed_data(model, photos, tmp_path / "vectors", engine="ray")
    assert not (tmp_path / "vectors").exists()


def test_a_damaged_part_of_another_shard_is_told_and_stops_nothing(
    model: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"rows_per_part": 40}
    (tmp_path / "two").mkdir()
    out = embed_data(model, f"folder:{photos}", tmp_path / "two", shard="2/2", **options)
    whole = (out / "part-00001.parquet").read_bytes()
    (out / "part-00001.parquet").write_bytes(b"damaged")
    embed_data(model, f"folder:{photos}", out, shard="1/2", **options)
    assert parts_of(out) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert "The parts of this shard are written, but another shard's is damaged:" in caplog.text
    assert "part-00001.parquet cannot be used" in caplog.text and "Remove it and embed again." in caplog.text
    embed_data(model, f"folder:{photos}", out, shard="2/2", **options)
    assert (out / "part-00001.parquet").read_bytes() == whole
