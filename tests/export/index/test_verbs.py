"""Indexes of galleries: their content, search results, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export import Embedder, build_index, search_index, to_onnx
from export.index.gallery import _as_seen_from, _found_from
from export.index.verbs import Hit
from zoo import DataError, ModelError, OptionError, create_model, save_model
from zoo.files import digest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "student"
    save_model(create_model("test_resnet", 8, image_size=32), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(student: Path) -> Path:
    return to_onnx(student, student.parent / "model.onnx")


@pytest.fixture(scope="module")
def flat(encoder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(encoder, str(photos), tmp_path_factory.mktemp("flat") / "index")


def altered(encoder: Path, path: Path, **metadata: str) -> Path:
    """Copy an ONNX file with other metadata, so that its digest is another too."""
    model = onnx.load(encoder)
    entries = {entry.key: entry.value for entry in model.metadata_props} | metadata
    del entries["content_digest"]
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, path)
    return path


def test_index_says_what_it_holds(flat: Path, encoder: Path, student: Path, photos: Path) -> None:
    assert {file.name for file in flat.iterdir()} == {"index.faiss", "ids.json", "index.json"}
    ids = json.loads((flat / "ids.json").read_text())
    assert ids == sorted(str(file.relative_to(photos)) for file in photos.rglob("*.png"))
    facts = json.loads((flat / "index.json").read_text())
    expected = {"schema": 1, "kind": "flat", "parameters": {}, "seed": 0, "metric": "cosine", "dim": 8, "count": 96}
    assert {key: facts[key] for key in expected} == expected
    assert facts["encoder"] == {
        "source": os.path.relpath(encoder, flat),  # the two can be moved together
        "digest": digest(encoder),
        "source_digest": digest(student / "model.safetensors"),
        "architecture": "test_resnet",
        "precision": "fp32",
    }
    assert facts["bytes_per_vector"] == 32
    assert (flat / "index.faiss").stat().st_size == facts["fixed_bytes"] + 96 * 32


def test_search_is_that_of_cosines(flat: Path, encoder: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    queries = files[5::30]
    embed = Embedder(encoder)
    cosines = embed(queries) @ embed(files).T
    found = search_index(flat, queries, k=4)
    for row, hits in enumerate(found):
        best = np.sort(cosines[row])[::-1][:4]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        of_ids = [cosines[row, files.index(photos / hit.id)] for hit in hits]
        np.testing.assert_allclose(of_ids, best, atol=1e-5)
        assert hits[0].id == str(queries[row].relative_to(photos))
    assert len(search_index(flat, queries[:1], k=1000)[0]) == 96
    assert search_index(flat, [str(queries[0])], k=1) == [[Hit(hits.id, hits.score) for hits in found[0][:1]]]


def test_a_gallery_needs_no_classes(photos: Path, encoder: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    (gallery / "a" / "b").mkdir(parents=True)
    shutil.copy(photos / "class00" / "0.png", gallery / "top.png")
    shutil.copy(photos / "class01" / "0.png", gallery / "a" / "b" / "deep.png")
    index = build_index(encoder, str(gallery), tmp_path / "index")
    assert json.loads((index / "ids.json").read_text()) == ["a/b/deep.png", "top.png"]
    assert search_index(index, [gallery / "top.png"], k=1)[0][0].id == "top.png"


def test_data_with_a_split_gives_all_its_images(photos: Path, encoder: Path, tmp_path: Path) -> None:
    rows = [f"{photos}/class0{i}/0.png,{i},{split}" for i, split in enumerate(("train", "test", ""))]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,split", *rows]))
    index = build_index(encoder, f"csv:{tmp_path / 'images.csv'}", tmp_path / "index")
    assert json.loads((index / "index.json").read_text())["count"] == 3


def test_unreadable_images_are_named_and_left_out(
    photos: Path, encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = tmp_path / "gallery"
    shutil.copytree(photos / "class00", gallery)
    (gallery / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 images cannot be read.*0\.png"):
        build_index(encoder, str(gallery), tmp_path / "none", max_unreadable=0)
    assert not (tmp_path / "none").exists()
    index = build_index(encoder, str(gallery), tmp_path / "index")
    assert str(gallery / "0.png") in caplog.text
    assert json.loads((index / "ids.json").read_text()) == [f"{i}.png" for i in range(1, 8)]


@pytest.mark.parametrize("kind", ["sq8", "hnsw", "binary"])
def test_other_kinds_find_the_image_itself(photos: Path, encoder: Path, kind: str, tmp_path: Path) -> None:
    options = {"overfetch": 20} if kind == "binary" else None
    index = build_index(encoder, str(photos), tmp_path / "index", kind=kind, options=options)
    queries = sorted(photos.rglob("*.png"))[::17]
    for query, hits in zip(queries, search_index(index, queries, k=3), strict=True):
        assert str(query.relative_to(photos)) in [hit.id for hit in hits]
        assert hits[0].score == pytest.approx(1, abs=1e-3)


def test_building_again_gives_the_same_bytes(photos: Path, encoder: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        index = build_index(encoder, str(photos), tmp_path / name, kind="hnsw", seed=3)
        files.append([(index / file).read_bytes() for file in ("index.faiss", "ids.json", "index.json")])
    assert files[0] == files[1]


def test_a_model_folder_is_an_encoder_too(photos: Path, student: Path, encoder: Path, flat: Path) -> None:
    query = photos / "class03" / "1.png"
    index = build_index(student, str(photos), flat.parent / "of-folder")
    expected = search_index(flat, [query], k=3)[0]
    for model in (None, encoder):
        found = search_index(index, [query], k=3, model=model, allow_other_encoder=model is not None)[0]
        assert found[0].id == expected[0].id
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-4)


def test_another_encoder_is_refused_unless_asked_for(flat: Path, encoder: Path, photos: Path, tmp_path: Path) -> None:
    query = photos / "class00" / "0.png"
    kin = altered(encoder, tmp_path / "kin.onnx", precision="int8")
    with pytest.raises(ModelError) as refusal:
        search_index(flat, [query], model=kin)
    told = str(refusal.value)
    assert f"{encoder} (fp32, digest {digest(encoder)[:12]})" in told
    assert f"{kin} (int8, digest {digest(kin)[:12]})" in told
    assert "same student" in told and "allow_other_encoder" in told
    stranger = altered(encoder, tmp_path / "stranger.onnx", source_digest="0" * 64)
    with pytest.raises(ModelError, match="need not be comparable: give the other file, or set allow_other_encoder"):
        search_index(flat, [query], model=stranger)
    assert search_index(flat, [query], model=kin, allow_other_encoder=True) == search_index(flat, [query])
    moved = shutil.copy(encoder, tmp_path / "moved.onnx")
    assert search_index(flat, [query], model=moved) == search_index(flat, [query])


def test_vectors_that_cannot_be_compared_are_always_refused(flat: Path, encoder: Path, tmp_path: Path) -> None:
    wider = altered(encoder, tmp_path / "wider.onnx", dim="9")
    other_metric = altered(encoder, tmp_path / "euclidean.onnx", metric="euclidean")
    for model, said in ((wider, r"wider\.onnx has dim 9.*has 8"), (other_metric, "has metric euclidean.*has cosine")):
        with pytest.raises(ModelError, match=said) as refusal:
            search_index(flat, [tmp_path / "query.png"], model=model, allow_other_encoder=True)
        assert str(encoder) in str(refusal.value)


def test_euclidean_scores_are_distances(photos: Path, encoder: Path, tmp_path: Path) -> None:
    euclidean = altered(encoder, tmp_path / "model.onnx", metric="euclidean")
    index = build_index(euclidean, str(photos), tmp_path / "index")
    files, query = sorted(photos.rglob("*.png")), photos / "class07" / "2.png"
    embed = Embedder(euclidean)
    expected = np.sort(np.linalg.norm(embed(files) - embed(query), axis=1))[:5]
    np.testing.assert_allclose([hit.score for hit in search_index(index, [query], k=5)[0]], expected, atol=1e-3)


def test_mistakes_are_named(flat: Path, encoder: Path, photos: Path, tmp_path: Path) -> None:
    query = photos / "class00" / "0.png"
    with pytest.raises(OptionError, match="No query"):
        search_index(flat, [])
    with pytest.raises(OptionError, match="k is 0"):
        search_index(flat, [query], k=0)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        search_index(flat, [tmp_path / "nowhere.png"])
    with pytest.raises(ModelError, match="nowhere is not an index"):
        search_index(tmp_path / "nowhere", [query])
    with pytest.raises(ModelError, match=r"gone\.onnx does not exist"):
        build_index(tmp_path / "gone.onnx", str(photos), tmp_path / "index")
    with pytest.raises(DataError, match="holds no images"):
        build_index(encoder, str(tmp_path), tmp_path / "index")
    with pytest.raises(OptionError, match=r"at least 256 vectors.* there are 96"):
        build_index(encoder, str(photos), tmp_path / "index", kind="ivfpq")
    with pytest.raises(OptionError, match="Did you mean binary"):
        build_index(encoder, str(photos), tmp_path / "index", kind="binry")
    assert not (tmp_path / "index").exists()


def broken_copy(flat: Path, path: Path, name: str, content: str) -> Path:
    shutil.copytree(flat, path)
    (path / name).write_text(content)
    return path


def test_broken_indexes_are_named(flat: Path, photos: Path, tmp_path: Path) -> None:
    sealed: dict[str, Any] = json.loads((flat / "index.json").read_text())
    facts = {key: value for key, value in sealed.items() if key not in ("digests", "seal")}  # of an earlier version
    moved = facts | {"encoder": facts["encoder"] | {"source": "gone.onnx"}}
    ids = json.loads((flat / "ids.json").read_text())
    cases = [
        ("index.json", "{", "not valid JSON"),
        ("index.json", json.dumps(facts | {"schema": 2}), "does not have schema 1"),
        ("index.json", json.dumps(moved), r"gone\.onnx, which index .* no longer exists"),
        ("ids.json", "[", r"ids\.json is missing or broken"),
        ("ids.json", '["a", "b"]', r"do not belong together.* 96 images, ids\.json has 2 and index\.faiss 96"),
        (
            "index.faiss",
            "IxF2",
            r"index\.faiss has changed since index build wrote it: its digest is \w{16}, but index\.json says",
        ),
        (
            "ids.json",
            json.dumps(ids[::-1]),
            r"ids\.json has changed since index build wrote it: its digest is \w{16}, but index",
        ),
        (
            "index.json",
            json.dumps(sealed | {"seed": 1}),
            r"index\.json has changed since index build wrote it.* but it says \w{16}",
        ),
        ("index.json", json.dumps(sealed | {"count": 97}), r"index\.json has changed since index build wrote it"),
        ("index.json", "[" * 100_000, "not valid JSON .*nested too deeply"),
        ("index.json", json.dumps(facts | {"dim": 10**18}), "dim is 1000000000000000000; it must be a whole number in"),
        ("index.json", json.dumps(facts | {"count": True}), "count is True; it must be a whole number"),
        ("index.json", json.dumps(facts | {"metric": "manhattan"}), "metric is 'manhattan'; it must be cosine or euc"),
        ("index.json", json.dumps(facts | {"digests": {"ids.json": 5}}), r"ids\.json is 5; it must be text"),
        ("ids.json", "5", "must be a list of texts"),
        ("ids.json", "{}", "must be a list of texts"),
        ("index.json", json.dumps(facts | {"kind": "zzz"}), "says kind 'zzz'"),
        ("index.json", json.dumps(facts | {"kind": "binary"}), "says kind 'binary', which its parameters do not fit"),
        ("index.json", json.dumps(facts | {"encoder": "x"}), "encoder is 'x'; it must be an object"),
        ("index.json", json.dumps(facts | {"encoder": {}}), "it lacks source"),
        *(
            ("index.json", json.dumps({name: value for name, value in facts.items() if name != key}), "lacks ")
            for key in ("kind", "metric", "parameters", "fixed_bytes", "count", "dim", "encoder")
        ),
    ]
    for number, (name, content, message) in enumerate(cases):
        index = broken_copy(flat, tmp_path / str(number), name, content)
        with pytest.raises(ModelError, match=message):
            search_index(index, [photos / "class00" / "0.png"])
    old = broken_copy(flat, tmp_path / "old", "index.json", json.dumps(facts))
    assert search_index(old, [photos / "class00" / "0.png"], k=1)[0][0].id == "class00/0.png"
    (old / "index.faiss").write_text("IxF2")
    with pytest.raises(ModelError, match="not an index that faiss"):
        search_index(old, [photos / "class00" / "0.png"])


def test_only_the_path_in_an_encoder_s_name_follows_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index").mkdir()
    for name in ("t", "o", "m.onnx"):
        (tmp_path / name).touch()
    for source, kept, found in (
        ("timm:t", "timm:t", "timm:t"),  # a network of timm's, whatever lies here
        ("st:t", "st:t", "st:t"),  # which takes folders, not files
        ("openvino:o", "openvino:../o", f"openvino:{tmp_path / 'o'}"),
        ("m.onnx#m.onnx", "../m.onnx#m.onnx", f"{tmp_path / 'm.onnx'}#m.onnx"),
        ("hf:owner/name", "hf:owner/name", "hf:owner/name"),
    ):
        assert _as_seen_from(tmp_path / "index", source) == kept
        assert _found_from(tmp_path / "index", kept) == found


def test_an_index_that_was_not_finished_is_none(
    flat: Path, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    shutil.copytree(flat, index)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("export.index.gallery.write_json", stop)
        build_index(encoder, str(photos / "class00"), index)
    with pytest.raises(ModelError, match="is not an index"):
        search_index(index, [photos / "class00" / "0.png"])


def test_a_query_of_another_size_finds_its_like(flat: Path, photos: Path, tmp_path: Path) -> None:
    with Image.open(photos / "class05" / "3.png") as image:
        image.resize((400, 400), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    assert search_index(flat, [tmp_path / "large.png"], k=1)[0][0].score > 0.9


def test_search_with_an_onnx_file_does_without_torch(flat: Path, photos: Path) -> None:
    query = str(photos / "class02" / "4.png")
    code = (
        "import sys; from export import search_index\n"
        f"assert search_index({str(flat)!r}, [{query!r}], k=1)[0][0].id == 'class02/4.png'\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
