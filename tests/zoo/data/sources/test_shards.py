"""webdataset shards, and files at addresses."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.data.sources.conftest import Pile
from zoo.data import load_data, load_images
from zoo.data.sources.addresses import is_address, places_in
from zoo.errors import DataError, MissingExtraError


def shard(path: Path, samples: dict[str, dict[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


def samples(pile: Pile, rows: range, *endings: str) -> dict[str, dict[str, bytes]]:
    found = {}
    for row in rows:
        label = pile.labels[row]
        texts = {
            "cls": label.encode(),
            "json": json.dumps({"sku": label, "size": [8, 6]}).encode(),
            "txt": label.encode(),
        }
        found[f"{row:06}"] = {"png": pile.blobs[row]} | {ending: texts[ending] for ending in endings}
    return found


@pytest.mark.parametrize(("ending", "columns"), [("cls", None), ("txt", None), ("json", {"label": "sku"})])
def test_labels_in_each_kind_of_file(ending: str, columns: dict[str, str] | None, pile: Pile) -> None:
    path = shard(pile.root / "a.tar", samples(pile, range(24), ending))
    splits = load_data(path, validation=0, columns=columns)
    assert pile.is_divided(splits) and splits.train.ids[0] == "000000"
    assert pile.is_in(pickle.loads(pickle.dumps(splits.test)), range(12, 24))


def test_json_says_the_label_unless_another_is_chosen(pile: Pile) -> None:
    files = samples(pile, range(24), "cls", "json")
    for row, sample in enumerate(files.values()):
        sample["cls"] = str(row % 2).encode()
        sample["json"] = json.dumps({"label": pile.labels[row]}).encode()
    path = shard(pile.root / "a.tar", files)
    assert pile.is_divided(load_data(path, validation=0))
    assert list(load_data(path, columns={"label": "cls"}).train.class_names) == ["0", "1"]


def test_json_with_a_key_image_leaves_the_image(pile: Pile) -> None:
    files = samples(pile, range(24), "cls")
    for sample in files.values():
        sample["json"] = json.dumps({"image": "elsewhere/cat.png"}).encode()
    files["only-json"] = {"json": files["000000"]["json"], "cls": b"cat"}
    splits = load_data(shard(pile.root / "a.tar", files), validation=0)
    assert pile.is_divided(splits) and pile.is_in(splits.test, range(12, 24))


def test_captions_are_no_classes(pile: Pile) -> None:
    files = samples(pile, range(6), "txt")
    for row, sample in enumerate(files.values()):
        sample["txt"] = f"an animal, number {row}".encode()
    assert load_data(shard(pile.root / "a.tar", files)).train.labels is None


def test_several_shards_and_their_parts(pile: Pile) -> None:
    shard(pile.root / "s-0000.tar", samples(pile, range(12), "cls"))
    shard(pile.root / "s-0001.tar", samples(pile, range(12, 24), "cls"))
    assert pile.is_divided(load_data(str(pile.root / "s-{0000..0001}.tar"), validation=0))
    (pile.root / "s-0000.tar").rename(pile.root / "train-0000.tar")
    (pile.root / "s-0001.tar").rename(pile.root / "test-0000.tar")
    splits = load_data(str(pile.root / "{train,test}-*.tar"), validation=0)
    assert pile.is_divided(splits) and splits.protocol["split"] == "given"


def test_shards_that_number_anew(pile: Pile) -> None:
    first = samples(pile, range(4), "cls")
    shard(pile.root / "s-0.tar", first)
    shard(pile.root / "s-1.tar", first)
    assert load_images(str(pile.root / "s-{0..1}.tar")).ids[4] == "s-1/000000"


def test_the_digest_notices_other_images(pile: Pile) -> None:
    files = samples(pile, range(24), "cls")
    before = load_data(shard(pile.root / "a.tar", files)).digest
    files["000003"]["png"] += b"more"
    assert load_data(shard(pile.root / "a.tar", files)).digest != before


def test_copies_in_train_and_test_are_told(pile: Pile, caplog: pytest.LogCaptureFixture) -> None:
    files = samples(pile, range(24), "cls")
    files["000020"]["png"] = files["000000"]["png"]
    load_data(shard(pile.root / "a.tar", files), validation=0)
    assert "1 of 12 test images are in train too, byte for byte: 000020 is 000000" in caplog.text


def test_mistakes_in_shards(pile: Pile, caplog: pytest.LogCaptureFixture) -> None:
    files = samples(pile, range(3), "cls")
    del files["000001"]["png"]
    assert len(load_images(shard(pile.root / "a.tar", files))) == 2
    assert "left out 1 samples without an image" in caplog.text
    files["000002"]["json"] = b"{"
    with pytest.raises(DataError, match=r"a\.tar: 000002\.json is not valid json in UTF-8"):
        load_data(shard(pile.root / "a.tar", files))
    with pytest.raises(DataError, match="holds no images"):
        load_data(shard(pile.root / "a.tar", {"x": {"txt": b"x"}}))
    (pile.root / "b.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="is not a readable tar archive"):
        load_data(str(pile.root / "b.tar"))
    for name, said in (("none.tar", "No such file"), ("a.tar.gz", "is compressed")):
        with pytest.raises(DataError, match=said):
            load_data(str(pile.root / name))
    images = load_images(shard(pile.root / "a.tar", samples(pile, range(2)) | {"9": {"jpg": b"broken"}}))
    with pytest.raises(DataError, match=r"a\.tar:9\.jpg cannot be read"):
        images.pixels(2)
    with pytest.raises(DataError, match=r"1\.txt is text of 1048577 bytes"):
        load_data(shard(pile.root / "a.tar", {"1": {"png": pile.blobs[0], "txt": b"x" * (2**20 + 1)}}))
    member = tarfile.TarInfo("1.png")
    member.size = 2**50  # which follow, it says
    (pile.root / "a.tar").write_bytes(member.tobuf() + pile.blobs[0])
    with pytest.raises(DataError, match=r"is not a readable tar archive|cannot be read"):
        load_images(str(pile.root / "a.tar")).checked(0)


def test_braces_spell_names_out() -> None:
    assert [str(place) for place in places_in("s3://b/{a,c}-{08..10}.tar")] == [
        f"s3://b/{letter}-{number}.tar" for letter in "ac" for number in ("08", "09", "10")
    ]
    with pytest.raises(DataError, match="more than 1000000 files"):
        places_in("x-{0..99999999}.tar")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s3://b/a.csv", True), ("HTTPS://x/y", True), ("zip::memory://a", True), ("csv:a.csv", False), ("C://x", False)],
)
def test_addresses(text: str, expected: bool) -> None:
    assert is_address(text) is expected


class TestMemory:
    """fsspec's own file system in memory, as any other."""

    @pytest.fixture
    def bucket(self, pile: Pile) -> Any:
        fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
        system = fsspec.filesystem("memory")
        for path, blob in zip(pile.paths, pile.blobs, strict=True):
            system.pipe_file("/bucket" + path.removeprefix(str(pile.root)), blob)
        yield system
        system.rm("/bucket", recursive=True)

    def test_tables_and_their_images(self, bucket: Any, pile: Pile) -> None:
        below = [path.removeprefix(f"{pile.root}/") for path in pile.paths]
        rows = "\n".join(f"{path},{label}" for path, label in zip(below, pile.labels, strict=True))
        bucket.pipe_file("/bucket/table.csv", f"path,label\n{rows}\n".encode())
        splits = load_data("memory://bucket/table.csv", validation=0)
        assert pile.is_divided(splits) and splits.train.ids[0] == "photos/ant/00.png"
        (pile.root / "local.csv").write_text(f"path,label\n{rows}\n".replace("photos/", "memory://bucket/photos/"))
        assert pile.is_divided(load_data(str(pile.root / "local.csv"), validation=0))
        assert pile.is_divided(load_data(([f"memory://bucket/{path}" for path in below], pile.labels), validation=0))
        rows = "\n".join(json.dumps({"file_name": path}) for path in below)
        bucket.pipe_file("/bucket/metadata.jsonl", rows.encode())
        assert load_images("jsonl:memory://bucket/metadata.jsonl").pixels(3)[0, 0, 0] == 30

    def test_parquet_and_shards(self, bucket: Any, pile: Pile) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import parquet

        parquet.write_table(pa.table({"image": pile.blobs, "label": pile.labels}), pile.root / "a.parquet")
        bucket.pipe_file("/bucket/a.parquet", (pile.root / "a.parquet").read_bytes())
        assert pile.is_divided(load_data("memory://bucket/*.parquet", validation=0))
        path = Path(shard(pile.root / "a.tar", samples(pile, range(24), "cls")))
        bucket.pipe_file("/bucket/a.tar", path.read_bytes())
        assert pile.is_divided(load_data("shards:memory://bucket/a.tar", validation=0))

    def test_what_is_not_there(self, bucket: Any) -> None:
        for address, said in (
            ("memory://bucket/none.csv", "cannot be read .No such file"),
            ("memory://bucket/photos", "is read as a table .* or as shards"),
            ("memory://bucket/none-*.tar", "No file matches"),
            ("nothing://x.csv", "nothing://x.csv cannot be opened .Protocol not known"),
        ):
            with pytest.raises(DataError, match=said):
                load_data(address)
        images = load_images(["memory://bucket/photos/ant/00.png", "memory://bucket/none.png"])
        with pytest.raises(DataError, match=r"Image memory://bucket/none.png cannot be read"):
            images.pixels(1)


def test_what_an_address_needs_is_named(without: Any) -> None:
    with without("fsspec"), pytest.raises(MissingExtraError, match=r"s3://b/a.csv needs fsspec, .*\[data\]"):
        load_data("s3://b/a.csv")
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    with without("s3fs"), pytest.raises(MissingExtraError, match=r"needs s3fs, .* pip install s3fs"):
        load_data("s3://b/a.csv")
