"""Tables in memory and in files other than CSV; the column names of all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo.data.sources.conftest import NAMES, Pile
from zoo.data import load_data, load_images
from zoo.data.sources import parquet as parquet_reader
from zoo.errors import DataError, MissingExtraError, OptionError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

Writer = Callable[[Pile, dict[str, list[Any]]], Any]


def pandas_frame(pile: Pile, columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("pandas", reason="pandas is not installed").DataFrame(columns)


def polars_frame(pile: Pile, columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("polars", reason="polars is not installed").DataFrame(columns)


def arrow_table(pile: Pile, columns: dict[str, list[Any]]) -> Any:
    return pa.table(columns)


def parquet(pile: Pile, columns: dict[str, list[Any]]) -> str:
    pq.write_table(pa.table(columns), pile.root / "table.parquet", row_group_size=5)
    return str(pile.root / "table.parquet")


def json_lines(pile: Pile, columns: dict[str, list[Any]]) -> str:
    return written(pile, columns, "table.jsonl", lambda frame, path: frame.to_json(path, orient="records", lines=True))


def tsv(pile: Pile, columns: dict[str, list[Any]]) -> str:
    return written(pile, columns, "table.tsv", lambda frame, path: frame.to_csv(path, sep="\t", index=False))


def csv(pile: Pile, columns: dict[str, list[Any]]) -> str:
    return written(pile, columns, "table.csv", lambda frame, path: frame.to_csv(path, index=False))


def written(pile: Pile, columns: dict[str, list[Any]], name: str, write: Callable[[Any, Any], None]) -> str:
    write(pandas_frame(pile, columns), pile.root / name)
    return str(pile.root / name)


IN_MEMORY = [pandas_frame, polars_frame, arrow_table]
ALL = [*IN_MEMORY, parquet, json_lines, tsv, csv]
OF_BYTES = [*IN_MEMORY, parquet]


@pytest.mark.parametrize("table", ALL)
def test_paths_and_labels_in_columns_of_any_name(table: Writer, pile: Pile) -> None:
    data = table(pile, {"price": list(range(24)), "sku": pile.labels, "file": pile.paths})
    splits = load_data(data, validation=0, columns={"path": "file", "label": "sku"})
    assert pile.is_divided(splits)
    unlabelled = load_data(data)  # file is a usual name, sku none
    assert unlabelled.train.labels is None and len(unlabelled.train) == 24


@pytest.mark.parametrize("table", ALL)
def test_one_table_gives_one_set_whatever_its_format(table: Writer, pile: Pile) -> None:
    columns = {"image": pile.paths, "label": [row // 4 for row in range(24)]}
    assert load_data(table(pile, columns)).digest == load_data(csv(pile, columns)).digest


@pytest.mark.parametrize("table", ALL)
def test_the_split_column_is_used(table: Writer, pile: Pile) -> None:
    fold = ["train"] * 12 + ["test"] * 12
    splits = load_data(
        table(pile, {"image": pile.paths, "label": pile.labels, "fold": fold}), columns={"split": "fold"}
    )
    assert splits.protocol["split"] == "given" and len(splits.test) == 12


@pytest.mark.parametrize("table", OF_BYTES)
@pytest.mark.parametrize("nested", [False, True])
def test_image_bytes_in_a_column(table: Writer, nested: bool, pile: Pile) -> None:
    images = [{"bytes": blob, "path": None} for blob in pile.blobs] if nested else pile.blobs
    data = table(pile, {"image": images, "label": pile.labels, "code": [f"c{row}" for row in range(24)]})
    assert pile.is_divided(load_data(data, validation=0))
    assert list(load_images(data, columns={"id": "code"}).ids)[:2] == ["c0", "c1"]


@pytest.mark.parametrize("table", OF_BYTES)
def test_the_digest_notices_other_images(table: Writer, pile: Pile) -> None:
    def digest(blobs: list[bytes]) -> str:
        return load_data(table(pile, {"image": blobs, "label": pile.labels})).digest

    before = digest(pile.blobs)
    assert digest(pile.blobs) == before != digest([*pile.blobs[:-1], pile.blobs[-1] + b"more"])


@pytest.mark.parametrize("table", [pandas_frame, polars_frame, arrow_table, parquet])
def test_empty_cells_in_typed_columns(table: Writer, pile: Pile) -> None:
    data = table(pile, {"image": pile.paths[:3], "label": [None, 3, 4]})
    with pytest.raises(DataError, match="row 0: label is empty while other rows have one"):
        load_data(data)
    none = table(pile, {"image": pile.paths[:2], "label": [float("nan"), None]})
    assert load_data(none).train.labels is None
    with pytest.raises(DataError, match=r"row 1: image is (None|nan), which means none"):
        load_data(table(pile, {"image": [pile.paths[0], None]}))


def test_numbers_beside_gaps_are_whole_as_before(pile: Pile) -> None:
    data = pandas_frame(pile, {"image": pile.paths[:3], "label": [7, 7, 8], "split": ["train", None, "test"]})
    data["label"] = data["label"].astype("float64")  # as pandas reads a column of whole numbers with gaps
    assert list(load_data(data).train.class_names) == ["7", "8"]


def test_categories_of_frames(pile: Pile) -> None:
    frame = pandas_frame(pile, {"image": pile.paths, "label": pile.labels}).astype({"label": "category"})
    assert pile.is_divided(load_data(frame, validation=0))
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars_frame(pile, {"image": pile.paths, "label": pile.labels})
    assert pile.is_divided(load_data(frame.cast({"label": polars.Categorical}), validation=0))
    with pytest.raises(DataError, match=r"a LazyFrame, whose rows are not there yet. Give frame\.collect\(\)"):
        load_data(frame.lazy())


@pytest.mark.parametrize("table", IN_MEMORY)
def test_a_column_of_a_frame_is_a_list(table: Writer, pile: Pile) -> None:
    frame = table(pile, {"image": pile.paths, "label": pile.labels})
    assert pile.is_divided(load_data((frame["image"], frame["label"]), validation=0))
    assert len(load_data(frame["image"]).train) == 24


def test_what_is_no_table_is_refused(pile: Pile) -> None:
    groups = pandas_frame(pile, {"image": pile.paths, "label": pile.labels}).groupby("label")
    with pytest.raises(DataError, match=r"type DataFrameGroupBy are neither a table nor a column\. Give a frame"):
        load_data(groups)


def test_a_column_whose_name_is_nearly_one_is_named_or_renamed(pile: Pile) -> None:
    frame = pandas_frame(pile, {"image": pile.paths, "lbl": pile.labels})
    with pytest.raises(DataError, match=r"Did you mean label\? If so, name it with the option columns; otherwise ren"):
        load_data(frame)
    assert pile.is_divided(load_data(frame, validation=0, columns={"label": "lbl"}))


def test_parquet_of_parts(pile: Pile) -> None:
    for part, rows in (("train", slice(0, 12)), ("test", slice(12, 24))):
        table = pa.table({"image": pile.blobs[rows], "label": pile.labels[rows]})
        pq.write_table(table, pile.root / f"{part}-00000-of-00001.parquet")
    splits = load_data(str(pile.root / "*-of-00001.parquet"))
    assert splits.protocol["split"] == "given" and len(splits.train) + len(splits.validation) == 12
    assert pile.is_in(splits.test, range(12, 24))
    assert len(load_data(str(pile.root / "{train,test}-00000-of-00001.parquet")).test) == 12
    with pytest.raises(DataError, match="No file matches"):
        load_data(str(pile.root / "none-*.parquet"))
    pq.write_table(pa.table({"image": pile.blobs}), pile.root / "test-00001-of-00001.parquet")
    with pytest.raises(DataError, match="has other columns or classes than"):
        load_data(str(pile.root / "*-of-00001.parquet"))


def test_paths_in_parquet_start_from_their_own_file(pile: Pile) -> None:
    for place, rows in (("a/x", slice(0, 12)), ("b", slice(12, 24))):
        folder = pile.root / "data" / place
        folder.mkdir(parents=True)
        for path in pile.paths[rows]:
            shutil.copy(path, folder)
        images = [Path(path).name for path in pile.paths[rows]]
        images[1] = pile.paths[rows][1]  # an absolute one
        pq.write_table(pa.table({"image": images, "label": pile.labels[rows]}), folder / "part.parquet")
    images = load_data(str(pile.root / "data/{a/x,b}/part.parquet"), split="all-train", validation=0).train
    assert pile.is_in(images) and images.ids[:2] == ["a/x/00.png", pile.paths[1]] and images.ids[-1] == "b/23.png"
    assert load_images(str(pile.root / "data/b/part.parquet")).ids[-1] == "23.png"


def test_json_lines_at_an_address_are_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fetched(place: object) -> bytes:
        asked.append(place)
        return b'\xef\xbb\xbf{"image": "a.png", "label": "x"}\r\n\r\n{"image": "b.png", "label": "y"}\r\n'

    monkeypatch.setattr("zoo.data.rows.read_place", fetched)
    images = load_images("jsonl:https://example.org/photos/table.jsonl", labelled=True)
    assert list(images.ids) == ["a.png", "b.png"] and images.class_names == ["x", "y"] and len(asked) == 1


@pytest.mark.parametrize("name", ["00.png", "more/00.png"])
def test_paths_in_parquet_at_addresses_start_from_their_own_file(name: str, pile: Pile) -> None:
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    for place in ("one", "two"):
        with memory.open(f"/shop/{place}/part.parquet", "wb") as file:
            pq.write_table(pa.table({"image": [name]}), file)
    images = load_images("memory://shop/*/part.parquet")
    assert [str(source) for source in images.sources] == [f"memory:///shop/{place}/{name}" for place in ("one", "two")]
    assert list(images.ids) == [f"one/{name}", f"two/{name}"]
    memory.rm("/shop", recursive=True)


def test_only_some_row_groups_are_held(pile: Pile) -> None:
    images = load_images(parquet(pile, {"image": pile.blobs}))
    parquet_reader._groups.clear()
    for row in range(24):
        assert images.pixels(row)[0, 0, 0] == 10 * row
    assert len(parquet_reader._groups) == parquet_reader._HELD_GROUPS < 5


def test_large_row_groups_are_told(
    pile: Pile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parquet_reader, "_LARGE_GROUP", 100)
    load_images(parquet(pile, {"image": pile.blobs}))
    assert "in one row group" in caplog.text and "row_group_size=1000" in caplog.text


def test_mistakes_in_parquet(pile: Pile, without: Any) -> None:
    (pile.root / "bad.parquet").write_bytes(b"PAR1 no")
    for name, said in (("bad.parquet", "is not a readable Parquet file"), ("none.parquet", "No such file")):
        with pytest.raises(DataError, match=said):
            load_data(str(pile.root / name))
    with pytest.raises(DataError, match=r"no column path, only a, b. .*columns.path"):
        load_data(parquet(pile, {"a": [1], "b": [2]}))
    pyarrow = pytest.importorskip("pyarrow")
    many = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(2_000_000, np.int8)), ["a.png"])
    pyarrow.parquet.write_table(pyarrow.table({"path": many}), pile.root / "bomb.parquet")
    with pytest.raises(DataError, match=r"it says 2000000 rows, in \d+ bytes"):
        load_data(str(pile.root / "bomb.parquet"))
    images = load_images(parquet(pile, {"image": [pile.blobs[0], None, b"broken"]}))
    for row in (1, 2):
        with pytest.raises(DataError, match=f"row group 0, row {row} cannot be read"):
            images.pixels(row)
    with (
        without("pyarrow"),
        pytest.raises(MissingExtraError, match=r"pip install 'embedding-compressor\[data\]'"),
    ):
        load_data(str(pile.root / "table.parquet"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"image": "a"}\n{"image": ', "line 2: not valid JSON"),
        ('{"image": "a"}\n\n[1]', r"line 3: it holds \[1\], not an object"),
        ("\n", "has no rows"),
        ('{"image": "photos/ant/00.png"}\n{"label": "x"}', "line 2: path is empty"),
        ('{"image": "photos/ant/00.png", "split": "x"}', "line 1: split 'x' is not one of"),
        ('{"x": {"image": 1}, "y": 2}', "no column path, only y"),
    ],
)
def test_mistakes_in_json_lines(text: str, said: str, pile: Pile) -> None:
    (pile.root / "table.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_data(str(pile.root / "table.jsonl"))


def test_tabs_separate_whatever_else_is_in_a_cell(pile: Pile) -> None:
    (pile.root / "t.tsv").write_text("path,x;y\tlabel\nphotos/ant/00.png\ta,b;c\n", encoding="utf-8")
    splits = load_data(f"tsv:{pile.root / 't.tsv'}", split="all-train", columns={"path": "path,x;y"})
    assert list(splits.train.class_names) == ["a,b;c"]


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        ({"path": "fil"}, DataError, r"no column 'fil' \(columns.path\), only file, sku. Did you mean file\?"),
        ({"paths": "file", "path": "file"}, OptionError, "names 'file' or path twice"),
        ({"labl": "sku"}, OptionError, "columns names 'labl'; known are path, label, .* Did you mean label"),
    ],
)
def test_columns_that_are_not_there(columns: dict[str, str], error: type[Exception], said: str, pile: Pile) -> None:
    with pytest.raises(error, match=said):
        load_data(csv(pile, {"file": pile.paths, "sku": pile.labels}), columns=columns)


def test_continuous_labels_by_row_fit_any_table(pile: Pile) -> None:
    np.save(pile.root / "numbers.npy", np.arange(24.0)[:, None])
    for data in (parquet(pile, {"image": pile.paths}), pandas_frame(pile, {"image": pile.paths}), pile.paths):
        splits = load_data(data, validation=0, continuous_labels=pile.root / "numbers.npy")
        assert splits.train.continuous is not None
        assert splits.train.continuous.distances(np.array([2]), np.array([9]))[0, 0] == 7
    with pytest.raises(DataError, match="have no image ids"):
        load_data(str(pile.root / "photos"), continuous_labels=pile.root / "numbers.npy")


def test_classes_that_datasets_writes_into_parquet(pile: Pile) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {"picture": pile.paths, "kind": [5 - row // 4 for row in range(24)], "n": list(range(24))}
    features = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=NAMES[::-1]),
        "n": datasets.Value("int64"),
    }
    datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet(pile.root / "hf.parquet")
    images = load_data(str(pile.root / "hf.parquet"), split="all-train", validation=0).train
    assert pile.is_in(images) and tuple(images.class_names) == NAMES[::-1]
