from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import compressor
import compressor.int8_finish.quantization_aware
import compressor.int8_finish.shipping
import export.int8.judge
import export.int8.preparation
import export.int8.trial
from compressor.cli.command import main
from compressor.int8_finish.quantization_aware import obstacle_to_finish
from export import Embedder, export_model, to_onnx
from export.int8.judge import balanced, images_of, judging
from export.onnx.tracing import smooth_images
from export.shipping import files_of
from zoo import (
    DataError,
    ImageSet,
    ModelError,
    OptionError,
    RefusedError,
    create_model,
    load_data,
    load_model,
    save_model,
)
from zoo.data import DataSplits
from zoo.errors import DivergedError
from zoo.files import digest
from zoo.models.facts import facts_of
from zoo.retrieval.bootstrap import at_least, drop_interval
from zoo.versions import has_vnni

WEIGHTS = "" if has_vnni() else " 7-bit weights"  # in the names of schemes for x86
QUICK: dict[str, Any] = {"validation": 0.34, "calibration_images": 16, "latency_runs": 2}


def one_channel_that_rules(model: nn.Module) -> nn.Module:
    """Make one channel behind the first convolution large and of no use.

    In float nothing comes of it; in int8 the other channels vanish, since a tensor has one scale.
    """
    stem = model.conv1  # type: ignore[union-attr]
    with torch.no_grad():
        stem[1].weight[0] = 0
        stem[1].bias[0] = 3000
        stem[3].weight[:, 0] = 0
    return model


@pytest.fixture(scope="module")
def fragile(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fragile") / "student"
    model = one_channel_that_rules(load_model(tiny_teacher))
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def shipped(tiny_teacher: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "export"
    words = ["export", str(tiny_teacher), str(folder), "--precision", "fp32,fp16,auto", "--data", f"folder:{photos}"]
    assert main([*words, "--validation", "0.34", "--calibration-images", "16", "--latency-runs", "2"]) == 0
    return folder


def test_files_of_all_precisions_agree(shipped: Path, tiny_teacher: Path, photos: Path) -> None:
    images = load_data(f"folder:{photos}").test
    pixels = [images.pixels(i) for i in range(len(images))]
    files = {"fp32": "model.onnx", "fp16": "model-fp16.onnx", "int8": "model-int8.onnx"}
    embedded = {precision: Embedder(shipped / name)(pixels) for precision, name in files.items()}
    for precision, least in (("fp16", 0.9999), ("int8", 0.98)):
        cosine = (embedded["fp32"] * embedded[precision]).sum(1)
        assert least < cosine.min() < 1 - 1e-9
        assert Embedder(shipped / files[precision]).precision == precision
        assert Embedder(shipped / files[precision]).metadata["source_digest"] == digest(
            tiny_teacher / "model.safetensors"
        )
    sizes = {precision: (shipped / name).stat().st_size for precision, name in files.items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.35 * sizes["fp32"]


def test_what_was_tried_is_on_record(shipped: Path) -> None:
    content = json.loads((shipped / "candidates.json").read_text())
    by_name = {entry["name"]: entry for entry in content["candidates"]}
    assert {"fp32", "fp16", f"static u8s8 per-channel minmax{WEIGHTS}"} <= set(by_name)
    assert f"static u8s8 per-tensor percentile{WEIGHTS}" in by_name
    assert by_name["fp32"]["drop"] == 0
    assert by_name["fp32"]["neighbour_overlap"] == 1
    assert content["calibration"] == {"images": 16, "classes": 4, "seed": 0}
    # The training images that were not calibrated on judge too, 8 of each of the 4 classes at most.
    parts = [{"of": "validation classes", "images": 16}, {"of": "other training images", "images": 16}]
    of = "validation classes and other training images"
    assert content["judged_on"] == {"images": 32, "of": of, "parts": parts, "data": content["judged_on"]["data"]}
    chosen = by_name[content["chosen"]]
    assert chosen["precision"] == "int8"
    assert chosen["inside_budget"]
    for entry in content["candidates"]:
        measured = entry["parts"]
        assert [part["queries"] for part in measured] == [16, 16][: len(measured)]
        assert entry["score"] == pytest.approx(np.mean([part["score"] for part in measured]))  # of as many queries
        assert entry["drop"] == pytest.approx(np.mean([part["drop"] for part in measured]))
        for part, of_fp32 in zip(measured, by_name["fp32"]["parts"], strict=False):
            assert part["drop"] == pytest.approx(of_fp32["score"] - part["score"])
        # Others judge only what the validation classes let through.
        assert (len(measured) == 2) is (measured[0]["drop"] <= 0.005 or entry["precision"] != "int8")
        assert entry["drop_interval"][0] <= entry["drop"] <= entry["drop_interval"][1]
        assert set(entry["latency_ms"]) == {"pixels", "tensor"}
    note = json.loads(Embedder(shipped / "model-int8.onnx").metadata["quantization"])
    assert note["scheme"] == content["chosen"]
    assert note["calibration"] == content["calibration"]
    assert note["judged_on"]["of"] == content["judged_on"]["of"] and note["judged_on"]["images"] == 32
    assert note["gain"] == content["gain"]["is"]
    fp32, speeds = by_name["fp32"], content["gain"]
    assert speeds["size"] == pytest.approx(chosen["bytes"] / fp32["bytes"]) and speeds["size"] < 0.35
    assert speeds["speedup"] == pytest.approx(
        fp32["latency_ms"]["pixels"]["median"] / chosen["latency_ms"]["pixels"]["median"]
    )
    assert content["resolution"]["images"] == 32 and content["resolution"]["enough"] is False
    assert note["judged_on"]["drop"] == chosen["drop"]
    assert note["kind"] == "static"


@pytest.mark.parametrize(("score", "max_drop", "warned"), [(0.99, 0.5, True), (0.97, 0.5, False), (0.99, None, False)])
def test_images_too_easy_to_show_a_drop_are_told_of(
    score: float,
    max_drop: float | None,
    warned: bool,
    photos: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    measured = export.int8.judge.Judge.measure

    def scored(judge: Any, embeddings: np.ndarray, part: int = 0, rows: Any = None) -> tuple[np.ndarray, np.ndarray]:
        scores, neighbours = measured(judge, embeddings, part, rows)
        return np.full(len(scores), score), neighbours

    monkeypatch.setattr(export.int8.judge.Judge, "measure", scored)
    options = QUICK | {"latency_runs": 0, "max_drop": max_drop}
    export_model(tiny_teacher, tmp_path / "out", precision="int8", data=f"folder:{photos}", **options)
    assert ("Recall@1 of fp32 is 99.0 % on the judged images" in caplog.text) is warned


def test_no_test_image_is_looked_at(
    photos: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    preprocessed = export.int8.judge.preprocessed

    def watched(graphs: Any, images: ImageSet) -> Any:
        seen.append(tuple(images.ids))
        return preprocessed(graphs, images)

    for module in (export.int8.judge, export.int8.preparation, export.int8.trial):  # to judge, calibrate and time
        monkeypatch.setattr(module, "preprocessed", watched)
    export_model(tiny_teacher, tmp_path, precision="int8", data=f"folder:{photos}", **QUICK)
    splits = load_data(f"folder:{photos}", validation=0.34)
    judged, others, calibrated = set(seen[0]), set(seen[1]), set(seen[2])
    assert judged == set(splits.validation.ids)
    assert others | calibrated <= set(splits.train.ids) and not others & calibrated
    assert (len(others), len(calibrated)) == (16, 16)
    judged |= others
    assert not (judged | calibrated) & set(splits.test.ids)


def test_without_validation_classes_other_training_images_judge(
    photos: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    options = QUICK | {"validation": 0.0}
    content = export_model(tiny_teacher, tmp_path, precision="int8", data=f"folder:{photos}", **options).candidates
    assert content is not None
    assert content["judged_on"]["of"] == "training classes"
    assert content["judged_on"]["images"] == 24  # half of 48


def test_every_training_class_is_judged_on_where_none_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [300, 60, 60, 1])
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    images = ImageSet([str(i) for i in range(421)], [pixels] * 421, labels, ["a", "b", "c", "d"])
    nothing = images.subset([])
    calibration, (part,) = images_of(DataSplits("x", images, nothing, nothing), 256, 6000, 0, seed=0)
    judged = part.images
    assert np.bincount(judged.labels).tolist() == [150, 30, 30, 1]
    assert np.bincount(calibration.labels).tolist() == [150, 30, 30]
    assert not set(calibration.ids) & set(judged.ids)
    with pytest.raises(DataError, match="judging gallery has fewer than two classes"):
        images_of(DataSplits("x", images, images.subset(np.flatnonzero(labels == 0)), nothing), 256, 6000, 0, seed=0)


def test_training_images_judge_too_as_far_as_asked_and_as_many_of_each_class() -> None:
    def images_with(sizes: list[int], prefix: str) -> ImageSet:
        labels, pixels = np.repeat(np.arange(len(sizes)), sizes), np.zeros((1, 1, 3), dtype=np.uint8)
        ids = [f"{prefix}{i}" for i in range(len(labels))]
        return ImageSet(ids, [pixels] * len(ids), labels, [str(i) for i in range(len(sizes))])

    train, held_out = images_with([300, 30, 20, 20], "t"), images_with([40, 40], "v")
    splits = DataSplits("x", train, held_out, held_out.subset([]))
    calibration, (first, others) = images_of(splits, 40, 6000, 0, seed=0)
    assert np.bincount(calibration.labels).tolist() == [10, 10, 10, 10]
    assert (first.of, set(first.images.ids)) == ("validation classes", set(held_out.ids))
    # Left are 290, 20, 10 and 10; no class has more than the median one, 15.
    assert others.of == "other training images"
    assert np.bincount(others.images.labels).tolist() == [15, 15, 10, 10]
    assert not set(calibration.ids) & set(others.images.ids)
    assert [len(part.images) for part in images_of(splits, 40, 96, 0, seed=0)[1]] == [80, 16]
    assert [len(part.images) for part in images_of(splits, 40, 60, 0, seed=0)[1]] == [60]
    assert [len(part.images) for part in images_of(splits, 400, 6000, 0, seed=0)[1]] == [80]  # all are calibrated on


def test_training_images_that_cannot_be_read_do_not_judge(tmp_path: Path) -> None:
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    labels, ids = np.repeat([0, 1], 4), [str(i) for i in range(8)]
    held_out = ImageSet(ids, [pixels] * 8, labels, ["a", "b"])
    train = ImageSet(ids, [pixels] * 4 + [tmp_path / "gone.png"] * 4, labels, ["c", "d"])
    splits = DataSplits("x", train, held_out, held_out.subset([]))
    (part,) = images_of(splits, 2, 6000, 10, seed=0)[1]  # the others are of one class when they have been read
    assert part.of == "validation classes"


@pytest.mark.parametrize(("queries", "lost"), [(2000, 10), (400, 2), (200, 1)])
def test_a_drop_of_the_whole_budget_is_inside(queries: int, lost: int) -> None:
    for before in range(lost, queries + 1):
        drop = before / queries - (before - lost) / queries
        assert at_least(0.005, drop) and not at_least(0.005, drop + 1 / queries)


def test_blocks_that_harm_stay_in_float(fragile: Path, photos: Path, tmp_path: Path) -> None:
    content = export_model(
        fragile, tmp_path, precision="auto", data=f"folder:{photos}", max_drop=0.0, **QUICK
    ).candidates
    assert content is not None
    whole = [entry for entry in content["candidates"] if entry["precision"] == "int8" and not entry["float_blocks"]]
    assert min(entry["drop"] for entry in whole) > 0.1
    chosen = next(entry for entry in content["candidates"] if entry["name"] == content["chosen"])
    assert {"conv1.0", "conv1.3"} & set(chosen["float_blocks"])
    assert chosen["drop"] <= 0
    names = [entry["name"] for entry in whole]  # improved ones, and of 8 bits too where 7 are faster
    assert len(set(names)) == len(names) == (8 if has_vnni() else 16)
    assert {f"{names[0]} {how}" for how in ("bias-corrected", "equalised", "equalised bias-corrected")} < set(names)
    overlaps = content["blocks"]["neighbour_overlap"]
    assert {"conv1.0", "conv1.3"} & set(sorted(overlaps, key=overlaps.__getitem__)[:2])
    weights = {t.name: t.data_type for t in onnx.load(tmp_path / "model-int8.onnx").graph.initializer}
    for block in chosen["float_blocks"]:
        assert weights[f"{block}.weight"] == onnx.TensorProto.FLOAT


def test_int8_that_does_not_retrieve_is_refused(
    fragile: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(fragile), str(tmp_path), "--precision", "fp32,int8", "--data", f"folder:{photos}"]
    words += ["--validation", "0.34", "--calibration-images", "16", "--latency-runs", "1"]
    assert main(words) == 3
    said = capsys.readouterr()
    assert "Refused: No int8 file keeps Recall@1 within 0.5 points of fp32" in said.err
    assert "Traceback" not in said.err
    assert "outside" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidates.json", "model.onnx"]
    content = json.loads((tmp_path / "candidates.json").read_text())
    assert content["chosen"] is None
    # fp16 is not measured where schemes are not searched: it would take as long as all else together
    assert [entry["name"] for entry in content["candidates"]] == ["fp32", f"static u8s8 per-channel minmax{WEIGHTS}"]
    with pytest.raises(RefusedError, match="No int8 file keeps Recall@1") as refused:
        export_model(fragile, tmp_path / "again", precision="int8", data=f"folder:{photos}", **QUICK)
    assert refused.value.content["chosen"] is None
    kept = export_model(fragile, tmp_path / "any", precision="int8", data=f"folder:{photos}", max_drop=None, **QUICK)
    assert kept.files["int8"].is_file()


def test_a_run_remembers_that_int8_was_refused(
    fragile: Path,
    tiny_teacher: Path,
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distilled = wraps(compressor.distill)(lambda *args, **options: fragile)
    monkeypatch.setattr("compressor.pipeline.distill", distilled)
    options: dict[str, Any] = {
        "given_teacher": tiny_teacher,
        "student": {"arch": "test_resnet", "dim": 32},
        "export": {"precision": "fp32,int8", "calibration_images": 16, "latency_runs": 1},
        "report": {"latency_runs": 0, "bootstrap": 10},
        "validation": 0.34,
    }
    with pytest.raises(RefusedError, match="No int8 file keeps Recall@1") as first:
        compressor.run(photos, tmp_path, **options)
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())["stages"]) == 3  # without int8
    record = tmp_path / "export" / "candidates.json"
    written = {file: file.stat().st_mtime_ns for file in (record, tmp_path / "export" / "model.onnx")}
    caplog.set_level("INFO")
    with pytest.raises(RefusedError) as again:
        compressor.run(photos, tmp_path, **options)
    assert str(again.value) == str(first.value) and again.value.content == json.loads(record.read_text())
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert f"{tmp_path / 'export'} is already finished: reused" in caplog.text


def test_preprocessing_left_to_the_caller(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    files = export_model(
        tiny_teacher, tmp_path, precision="fp32,int8", input="tensor", data=f"folder:{photos}", **QUICK
    ).files
    assert [path.name for path in files.values()] == ["model-tensor.onnx", "model-int8-tensor.onnx"]
    tensor = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = nn.functional.normalize(load_model(tiny_teacher)(torch.from_numpy(tensor))).numpy()
    found = {}
    for precision, path in files.items():
        session = onnxruntime.InferenceSession(str(path))
        (taken,) = session.get_inputs()
        assert (taken.name, taken.type, taken.shape) == ("tensor", "tensor(float)", ["N", 3, 32, 32])
        found[precision] = session.run(None, {"tensor": tensor})[0]
        preprocessing = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
        assert preprocessing["inside"] is False
    np.testing.assert_allclose(found["fp32"], expected, atol=1e-5)
    assert (found["int8"] * expected).sum(1).min() > 0.8


def test_the_same_file_as_to_onnx(shipped: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    image = smooth_images(1)[0]
    expected = Embedder(to_onnx(tiny_teacher, tmp_path / "small.onnx"))(image)
    np.testing.assert_array_equal(Embedder(shipped / "model.onnx")(image), expected)


def test_positions_of_spots(spot_teacher: Path, spots: Path, tmp_path: Path) -> None:
    data = {"data": f"csv:{spots / 'images.csv'}", "continuous_labels": spots / "positions.csv"}
    content = export_model(spot_teacher, tmp_path, precision="int8", max_drop=0.05, **data, **QUICK).candidates
    assert content is not None
    assert content["measure"] == "nDCG@10"
    assert content["calibration"]["classes"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, r"'int4'; known are fp32, fp16, int8 and auto\. Did you mean int8"),
        ({"precision": "int8"}, "needs data"),
        ({"precision": "int8,auto", "data": "glyphs"}, "Ask for one of the two"),
        ({"precision": "fp32,fp16", "out": "small.onnx"}, "one file for 2 precisions"),
        ({"input": "pixel"}, r"'pixel'; known are pixels and tensor\. Did you mean pixels\?"),
    ],
)
def test_options_that_cannot_work(tiny_teacher: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / str(options.pop("out", "out"))
    with pytest.raises(OptionError, match=message):
        export_model(tiny_teacher, path, **options)


def test_weights_beyond_float16(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32)
    with torch.no_grad():
        model.get_classifier().weight[0, 0] = 1e5  # type: ignore[operator, index]
    with pytest.raises(ModelError, match="float16's range"):
        export_model(model, tmp_path / "model.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_activations_beyond_float16(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32)
    with torch.no_grad():
        model.conv1[0].weight.fill_(3e4)  # type: ignore[index, operator, union-attr]
    with pytest.raises(ModelError, match=r"activations of .* beyond float16's range"):
        export_model(model, tmp_path / "model.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_files_hold_no_path_of_the_machine(shipped: Path) -> None:
    for path in shipped.glob("*.onnx"):
        assert str(Path(torch.__file__).parents[1]).encode() not in path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_calibration_is_balanced_over_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 5, 20])
    images = ImageSet([str(i) for i in range(75)], [np.zeros((2, 2, 3), np.uint8)] * 75, labels, ["a", "b", "c"])
    rows = balanced(images, 12, seed=3)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4]
    assert len(set(rows.tolist())) == 12
    assert np.array_equal(rows, balanced(images, 12, seed=3))
    assert not np.array_equal(rows, balanced(images, 12, seed=4))
    assert np.bincount(labels[balanced(images, 30, seed=0)]).tolist() in ([13, 5, 12], [12, 5, 13])
    assert sorted(balanced(images, 200, seed=0).tolist()) == list(range(75))


def labelled(sizes: list[int], roles: np.ndarray | None = None) -> ImageSet:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = [np.zeros((2, 2, 3), np.uint8)] * len(labels)
    return ImageSet([str(i) for i in range(len(labels))], pixels, labels, [str(i) for i in range(len(sizes))], roles)


def test_images_to_judge_by_have_others_of_their_class() -> None:
    many = labelled([5] * 3000)  # more classes than images to judge
    assert many.labels is not None
    rows = judging(many, 2000, seed=0)
    counts = np.bincount(many.labels[rows], minlength=3000)
    assert len(rows) == len(set(rows)) == 2000 and set(counts) == {0, 5}
    assert not np.array_equal(rows, judging(many, 2000, seed=1))
    large = labelled([500] * 10)  # few and large: as many of each
    assert large.labels is not None
    assert set(np.bincount(large.labels[judging(large, 2000, seed=0)])) == {200}
    assert judging(large, 5000, seed=0).tolist() == list(range(5000))


def test_queries_and_gallery_judge_in_turn() -> None:
    roles = np.array((["query"] * 2 + ["gallery"] * 18) * 400)
    images = labelled([20] * 400, roles)
    rows = judging(images, 1000, seed=0)
    assert images.labels is not None
    for label in np.unique(images.labels[rows])[:-1]:
        chosen = roles[rows][images.labels[rows] == label]
        assert (chosen == "query").sum() == 2 and (chosen == "gallery").sum() == 6


@pytest.mark.parametrize("kind", [bool, float])
def test_interval_of_a_drop(kind: type) -> None:
    generator = np.random.default_rng(0)
    reference = generator.random(400) < 0.8
    model = reference ^ (generator.random(400) < 0.1)
    low, high = drop_interval(model.astype(kind), reference.astype(kind), 20000)
    differences = reference.astype(float) - model
    spread = 1.96 * differences.std() / 20  # of a mean of 400, normal approximation
    assert low == pytest.approx(differences.mean() - spread, abs=0.004)
    assert high == pytest.approx(differences.mean() + spread, abs=0.004)
    assert drop_interval(reference.astype(kind), reference.astype(kind), 100) == (0, 0)


def test_a_finish_gives_int8_a_second_chance(
    fragile: Path, tiny_teacher: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def finished(student: Path, teacher: Path, data: str, out: Path, **options: Any) -> Path:
        asked.update(options, student=student, teacher=teacher, out=out)
        return tiny_teacher  # as if training had evened the channels out

    monkeypatch.setattr(compressor.int8_finish.quantization_aware, "finish_quantized", finished)
    options = QUICK | {"data": f"folder:{photos}", "precision": "fp32, int8", "seed": 3}
    shipped = compressor.ship(fragile, tmp_path, teacher=tiny_teacher, qat_epochs=2, **options)
    assert asked["student"] == fragile
    assert (asked["epochs"], asked["seed"], asked["validation"]) == (2, 3, 0.34)
    assert (asked["scheme"], asked["out"]) == ("u8s8", tmp_path / "finished")
    assert asked["weight_bits"] == (8 if has_vnni() else 7)  # as in the file
    assert list(shipped.files) == ["fp32", "int8"]
    content = shipped.candidates
    assert content is not None
    assert [entry["name"] for entry in content["candidates"]] == [
        "fp32",
        f"static u8s8 per-channel minmax{WEIGHTS}",
        "finished, fp32",
        f"finished, static u8s8 per-channel minmax{WEIGHTS}",
    ]
    assert content["chosen"] == f"finished, static u8s8 per-channel minmax{WEIGHTS}"
    before, refused, after = content["candidates"][:3]
    assert refused["drop"] > 0.005
    assert after["drop"] == pytest.approx(before["score"] - after["score"])
    source = digest(tiny_teacher / "model.safetensors")
    assert Embedder(shipped.files["int8"]).metadata["source_digest"] == source
    assert Embedder(shipped.files["fp32"]).metadata["source_digest"] == digest(fragile / "model.safetensors")


def test_a_finish_is_made_kept_and_judged_against_the_student_as_it_was(
    fragile: Path, tiny_teacher: Path, photos: Path, tmp_path: Path
) -> None:
    options = QUICK | {"data": f"folder:{photos}", "precision": "int8", "latency_runs": 0}
    with pytest.raises(RefusedError, match=rf"the best, .*static u8s8 per-channel minmax{WEIGHTS}, loses") as refused:
        compressor.ship(fragile, tmp_path, teacher=tiny_teacher, qat_epochs=1, **options)  # its scale is beyond mending
    tried = refused.value.content["candidates"]
    assert [entry["name"].removeprefix("finished, ") for entry in tried[2:]] == [entry["name"] for entry in tried[:2]]
    facts = facts_of(load_model(tmp_path / "finished"))
    assert facts.options["finish_quantized"]["epochs"] == 1 and "validation as int8" in facts.measured
    assert tried[2]["drop"] == pytest.approx(tried[0]["score"] - tried[2]["score"])
    assert not (tmp_path / "model-int8.onnx").exists()


@pytest.mark.parametrize(
    ("precision", "given", "epochs"),
    [
        ("auto", {}, 4),
        ("auto", {"qat_epochs": 1}, 1),
        ("auto", {"qat_epochs": 0}, None),
        ("int8", {}, None),
        ("auto", {"teacher": None}, None),
    ],
)
def test_auto_finishes_by_itself_where_a_teacher_is_known(
    precision: str,
    given: dict[str, Any],
    epochs: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Searching and training are left out."""
    tried: list[tuple[Any, ...]] = []

    def exported(model: Any, path: Any, **options: Any) -> Any:
        tried.append((model, options.get("before")))
        if options.get("before") is None:
            raise RefusedError("No int8 file keeps it.", "Allow more.", {}, None)
        return SimpleNamespace(candidates={"chosen": "finished"})

    def finished(student: Any, teacher: Any, data: Any, out: Path, **options: Any) -> str:
        tried.append((student, teacher, options["epochs"], options["loss"]))
        return "finished"

    shipping, finish = compressor.int8_finish.shipping, compressor.int8_finish.quantization_aware
    monkeypatch.setattr(shipping, "export_model", exported)
    monkeypatch.setattr(finish, "finish_quantized", finished)
    monkeypatch.setattr(finish, "obstacle_to_finish", lambda student, loss: None)
    monkeypatch.setattr("zoo.teachers.opening.open_teacher", lambda teacher: None)
    caplog.set_level("INFO")
    options = {"teacher": "teacher", "precision": precision, "data": "folder:x", "loss": "mine:Loss"} | given
    if epochs is None:
        with pytest.raises(RefusedError, match=r"No int8 file keeps it\. Allow more\."):
            compressor.ship("student", tmp_path, **options)
        assert tried == [("student", None)]
        return
    shipped = compressor.ship("student", tmp_path, **options)
    assert shipped.candidates == {"chosen": "finished"}
    assert tried[:2] == [("student", None), ("student", "teacher", epochs, "mine:Loss")]
    assert tried[2][0] == "finished" and isinstance(tried[2][1], RefusedError)
    automatic = "" if given else " (--qat_epochs 0 leaves this out)"
    assert f"No int8 file keeps it. Fine-tuning the student for int8 for {epochs} epochs{automatic}." in caplog.text

    def failing(*args: Any, **options: Any) -> None:
        raise OptionError("another student's folder")

    # What nobody asked for does not hide that int8 is refused; what was asked for is told as a mistake.
    monkeypatch.setattr(finish, "finish_quantized", failing)
    expected = OptionError if given else RefusedError
    with pytest.raises(expected, match="another student's folder"):
        compressor.ship("student", tmp_path, **options)


def test_a_finish_needs_a_teacher(fragile: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs a teacher"):
        compressor.ship(fragile, tmp_path, qat_epochs=2, precision="int8", data=f"folder:{photos}")


def test_a_finish_that_fails_leaves_a_refusal(
    fragile: Path, tiny_teacher: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **options: Any) -> Path:
        raise DivergedError("weights")

    monkeypatch.setattr(compressor.int8_finish.quantization_aware, "finish_quantized", failing)
    options = QUICK | {"data": f"folder:{photos}", "precision": "int8"}
    with pytest.raises(RefusedError, match=r"No int8 file keeps .* Fine-tuning failed: weights") as refused:
        compressor.ship(fragile, tmp_path, teacher=tiny_teacher, qat_epochs=2, **options)
    assert len(refused.value.content["candidates"]) == 2
    assert "qat_epochs" not in str(refused.value)  # which were given


def test_what_keeps_a_finish_from_working_is_told_before_the_search(
    fragile: Path, tiny_teacher: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searching(*args: Any, **options: Any) -> None:
        raise AssertionError("the search has begun")

    options = QUICK | {"data": f"folder:{photos}", "precision": "int8", "qat_epochs": 2}
    with monkeypatch.context() as patched:
        patched.setattr(compressor.int8_finish.shipping, "export_model", searching)
        with pytest.raises(ModelError, match=r"gone does not exist"):
            compressor.ship(fragile, tmp_path, teacher=tmp_path / "gone", **options)
    monkeypatch.setattr(
        compressor.int8_finish.quantization_aware,
        "obstacle_to_finish",
        lambda student, loss: "It cannot be finished: branches.",
    )
    with pytest.raises(RefusedError, match=r"No int8 file keeps .* It cannot be finished: branches\.$"):
        compressor.ship(fragile, tmp_path, teacher=tiny_teacher, **options)


def test_the_obstacle_to_a_finish_is_a_merging_of_branches(tiny_teacher: Path, tmp_path: Path) -> None:
    assert obstacle_to_finish(tiny_teacher) is None
    save_model(create_model("repvgg_a0", 8, image_size=32), tmp_path / "r")
    said = obstacle_to_finish(tmp_path / "r")
    assert said is not None and "repvgg_a0 merges its branches" in said


def test_a_finish_without_int8_is_a_mistake(tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="qat_epochs 2 fine-tunes a student for int8"):
        compressor.ship(tiny_teacher, tmp_path, teacher=tiny_teacher, qat_epochs=2, precision="fp16")


def test_a_parity_pack_is_written_of_the_other_precisions_if_int8_is_refused(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(model: Path, out: Path, **options: Any) -> None:
        raise RefusedError("No int8 file keeps it.", "Allow more.", {}, None)

    packs: list[tuple[dict[str, Path], Path]] = []
    monkeypatch.setattr(compressor.int8_finish.shipping, "export_model", refusing)
    monkeypatch.setattr("export.parity.pack.write_parity", lambda *given: packs.append(given))
    for precision in ("fp32,fp16,int8", "int8"):
        with pytest.raises(RefusedError, match=r"No int8 file keeps it\."):
            compressor.ship(tiny_teacher, tmp_path, precision=precision, data="folder:x", parity=True)
    files = {"fp32": tmp_path / "model.onnx", "fp16": tmp_path / "model-fp16.onnx"}
    assert packs == [(files, tmp_path / "parity")]  # none of a refused file alone


def test_a_refusal_leaves_no_older_int8_file(fragile: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model-int8.onnx").write_bytes(b"older")
    with pytest.raises(RefusedError):
        export_model(fragile, tmp_path, precision="int8", data=f"folder:{photos}", **QUICK)
    assert not (tmp_path / "model-int8.onnx").exists()


def test_a_mistake_leaves_the_older_int8_file(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model-int8.onnx").write_bytes(b"older")
    with pytest.raises(OptionError, match="calibration_images is 0"):
        options = QUICK | {"calibration_images": 0}
        export_model(tiny_teacher, tmp_path, precision="int8", data=f"folder:{photos}", **options)
    assert (tmp_path / "model-int8.onnx").read_bytes() == b"older"


def test_int8_by_name_only_is_refused(
    tiny_teacher: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.int8.trial, "_LEAST_INT8", 1.1)
    with pytest.raises(RefusedError, match="No int8 file could be made") as refused:
        export_model(tiny_teacher, tmp_path, precision="auto", data=f"folder:{photos}", **QUICK)
    of_int8 = [entry for entry in refused.value.content["candidates"] if entry["precision"] == "int8"]
    assert of_int8 and all(re.fullmatch(r"only \d+ % of the weights are in int8", e["error"]) for e in of_int8)
    assert all(not entry["inside_budget"] and entry["int8_share"] > 0.9 for entry in of_int8)


def test_a_model_without_numbers_is_named(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    model = load_model(tiny_teacher)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match="its embeddings are not finite"):
        export_model(model, tmp_path / "m.onnx")
    model = load_model(tiny_teacher)
    with torch.no_grad():
        model.get_classifier().weight.fill_(1e38)  # type: ignore[union-attr, operator]
    with pytest.raises(ModelError, match="not finite"):
        export_model(model, tmp_path / "m", precision="int8", data=f"folder:{photos}", **QUICK)


def test_maps_are_no_embeddings(tmp_path: Path) -> None:
    maps = timm.create_model("test_resnet", num_classes=0, global_pool="")
    with pytest.raises(ModelError, match=r"it gives shape \(2, \d+, \d+, \d+\) where an embedding is \(N, D\)"):
        to_onnx(maps, tmp_path / "m.onnx")


@pytest.mark.parametrize("count", [0, -3])
def test_calibration_takes_an_image(count: int, tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    options = QUICK | {"calibration_images": count}
    with pytest.raises(OptionError, match=f"calibration_images is {count}; it must be at least 1"):
        export_model(tiny_teacher, tmp_path, precision="int8", data=f"folder:{photos}", **options)


def test_int8_needs_labels_to_be_judged_by(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{photos}", "all-train", validation=0)
    unlabelled = replace(data, train=data.train.without_labels())
    with pytest.raises(DataError, match="has no labels to judge int8 by"):
        export_model(tiny_teacher, tmp_path, precision="int8", data=unlabelled, **QUICK)


@pytest.mark.parametrize("name", ["x.ONNX", "folder/x.pt", "x.onnx.gz", "x.json"])
def test_files_of_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"ends in neither \.onnx nor \.tflite\. Give a name that does"):
        files_of("student", tmp_path / name, "fp32")


def test_folders_may_have_dots_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "made.already").mkdir()
    for name in ("v1.2", "made.already", ".hidden"):
        assert files_of("student", tmp_path / name, "fp32") == {"fp32": tmp_path / name / "model.onnx"}
