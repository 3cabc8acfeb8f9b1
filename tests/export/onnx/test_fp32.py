from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import export.onnx.tracing
from export import Embedder, to_onnx
from export.onnx.fp32 import TOLERANCE
from export.onnx.tracing import difference, join, pixels_to_vector, smooth_images, trace_model
from export.onnx.writing import some_images
from zoo import DataError, ModelError, OptionError, load_data, load_model
from zoo.files import digest
from zoo.models.folder import save_model
from zoo.models.making import create_model


def lively(model: nn.Module) -> nn.Module:
    """Give BatchNorm layers statistics that matter, as training would."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))  # type: ignore[union-attr]
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    save_model(lively(create_model("mobilenetv4_conv_small_050", 16, image_size=48, pool="avgmax")), folder)
    return folder


@pytest.fixture(scope="module")
def artefact(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_onnx(student, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.parametrize("size", [(48, 48), (33, 90), (200, 57)])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_onnx_equals_torch(student: Path, artefact: Path, batch: int, size: tuple[int, int]) -> None:
    whole = pixels_to_vector(load_model(student))
    images = [np.asarray(Image.fromarray(image).resize(size[::-1])) for image in smooth_images(batch)]
    with torch.inference_mode():
        expected = whole(torch.from_numpy(np.stack(images))).numpy()
    found = Embedder(artefact)(np.stack(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_model_is_found_in_the_home_folder(
    student: Path, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(student.parent))
    file = to_onnx(f"~/{student.name}", tmp_path / "model.onnx")
    assert Embedder(file).metadata["source_digest"] == Embedder(artefact).metadata["source_digest"]


def test_joining_graphs_changes_none_of_them() -> None:
    graphs = trace_model(create_model("test_resnet", 8, image_size=32)).graphs
    assert graphs.normalize is not None
    graphs.network.ir_version = graphs.normalize.ir_version - 1
    before = [each.SerializeToString() for each in (graphs.preprocess, graphs.network, graphs.normalize)]
    assert join(graphs, "pixels").ir_version == graphs.normalize.ir_version
    assert [each.SerializeToString() for each in (graphs.preprocess, graphs.network, graphs.normalize)] == before


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling_is_exported_without_adaptive_maxima_which_torch_2_11_cannot(pool: str) -> None:
    model = lively(create_model("test_resnet", 8, image_size=32, pool=pool))
    assert "Adaptive" in type(model.global_pool.pool).__name__
    network = pixels_to_vector(model).network
    assert all(getattr(module, "output_size", None) is None for module in network.modules())
    tensor = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(tensor), model(tensor), atol=1e-6, rtol=0)


def test_euclidean_embeddings_are_not_normalised(tmp_path: Path) -> None:
    model = lively(create_model("test_resnet", 8, image_size=32, metric="euclidean"))
    embedder = Embedder(to_onnx(model, tmp_path / "model.onnx"))
    image = smooth_images(1)[0]
    with torch.inference_mode():
        expected = pixels_to_vector(model)(torch.from_numpy(image[None])).numpy()[0]
    assert embedder.metric == "euclidean"
    np.testing.assert_allclose(embedder(image), expected, atol=1e-5)
    assert abs(np.linalg.norm(expected) - 1) > 0.01


def test_a_zero_embedding_stays_zero(tmp_path: Path) -> None:
    model = create_model("test_resnet", 8, image_size=32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(Embedder(to_onnx(model, tmp_path / "model.onnx"))(smooth_images(1)[0]), np.zeros(8))


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_convnext", "repvgg_a0"])
def test_architectures_of_all_kinds(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(create_model(arch, 8, image_size=64))
    embedder = Embedder(to_onnx(model, tmp_path / "model.onnx"))
    image = smooth_images(1)[0]
    with torch.inference_mode():
        prepared = pixels_to_vector(model).preprocess(torch.from_numpy(image[None]))
        expected = model(prepared)[0].numpy()
    np.testing.assert_allclose(embedder(image), expected / np.linalg.norm(expected), atol=1e-4)


def test_real_photographs(shared: Path, student: Path, artefact: Path) -> None:
    images = load_data(f"grocery:{shared / 'data' / 'grocery-store-160px.zip'}", "even-odd").test
    whole, embedder = pixels_to_vector(load_model(student)), Embedder(artefact)
    for index in range(0, len(images), len(images) // 20):
        pixels = images.pixels(index)
        with torch.inference_mode():
            expected = whole(torch.from_numpy(pixels[None])).numpy()[0]
        assert np.abs(embedder(pixels) - expected).max() <= 1e-4


def test_file_and_metadata(student: Path, artefact: Path) -> None:
    proto = onnx.load(artefact)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 18}
    session = onnxruntime.InferenceSession(str(artefact))
    (image,), (embedding,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", "H", "W", 3])
    assert (embedding.name, embedding.type, embedding.shape) == ("embedding", "tensor(float)", ["N", 16])
    metadata = Embedder(artefact).metadata
    assert metadata["architecture"] == "mobilenetv4_conv_small_050"
    assert (metadata["dim"], metadata["metric"], metadata["precision"]) == ("16", "cosine", "fp32")
    assert metadata["source_digest"] == digest(student / "model.safetensors")
    assert json.loads(metadata["preprocessing"])["input_size"] == [3, 48, 48]
    assert [entry.name for entry in artefact.parent.iterdir()] == ["model.onnx"]


def test_a_wrong_graph_is_not_written(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(whole: nn.Module) -> onnx.ModelProto:
        damaged = lively(create_model("test_resnet", 16, image_size=48))
        return real(pixels_to_vector(damaged))

    real = export.onnx.tracing.trace
    monkeypatch.setattr(export.onnx.tracing, "trace", wrong)
    with pytest.raises(ModelError, match="differs from the model"):
        to_onnx(student, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_resize_that_skips_pixels_is_noticed(tmp_path: Path) -> None:
    traced = trace_model(lively(create_model("test_resnet", 8, image_size=128)))
    file = tmp_path / "model.onnx"
    onnx.save(join(traced.graphs, "pixels"), file)
    assert difference(traced.whole, file, smooth_images()) < 1e-5
    proto = onnx.load(file)
    given = [a for n in proto.graph.node if n.op_type == "Resize" for a in n.attribute]
    for attribute in given:
        if attribute.name in ("antialias", "exclude_outside"):
            attribute.i = 0
    onnx.save(proto, file)
    assert difference(traced.whole, file, smooth_images()) > 10 * TOLERANCE


def test_images_to_compare_on_are_of_many_classes(photos: Path) -> None:
    splits = load_data(f"folder:{photos}", "all-train", validation=0)
    assert splits.train.labels is not None
    shown = some_images(splits, 4)
    rows = [next(i for i in range(len(splits.train)) if np.array_equal(splits.train.pixels(i), one)) for one in shown]
    assert len({int(splits.train.labels[row]) for row in rows}) == 4


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        to_onnx(tmp_path / "nowhere", tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        Embedder(tmp_path / "nowhere.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        Embedder(broken)
    foreign = tmp_path / "foreign.onnx"
    torch.onnx.export(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), foreign, dynamo=True, verbose=False)
    with pytest.raises(ModelError, match="not made by to_onnx"):
        Embedder(foreign)


def test_embedder_takes_what_people_have(artefact: Path, tmp_path: Path) -> None:
    embedder = Embedder(artefact, threads=1)
    pixels = smooth_images(1)[0]
    image = Image.fromarray(pixels)
    file = tmp_path / "image.png"
    image.save(file)
    expected = embedder(pixels)
    assert expected.shape == (16,)
    for same in (image, file, str(file), np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])):
        np.testing.assert_array_equal(embedder(same), expected)
    grey = pixels[:, :, 0]
    np.testing.assert_array_equal(embedder(grey), embedder(np.repeat(grey[:, :, None], 3, axis=2)))
    several = embedder([pixels, pixels[:50], image, file])
    np.testing.assert_allclose(several[[0, 2, 3]], np.stack([expected] * 3), atol=1e-6)
    np.testing.assert_allclose(several[1], embedder(pixels[:50]), atol=1e-6)
    np.testing.assert_allclose(embedder(np.stack([pixels] * 3), batch_size=2), np.stack([expected] * 3), atol=1e-6)
    assert embedder([]).shape == (0, 16)
    with pytest.raises(DataError, match=r"gone\.png"):
        embedder(tmp_path / "gone.png")
    with pytest.raises(DataError, match="float64"):
        embedder(np.zeros((4, 4, 3)))


def test_images_to_compare_on_are_of_any_kind(tiny_teacher: Path, tmp_path: Path) -> None:
    grey, several = np.zeros((40, 30), dtype=np.uint8), np.zeros((2, 40, 30, 3), dtype=np.uint8)
    assert to_onnx(tiny_teacher, tmp_path / "a.onnx", [grey]).is_file()
    assert to_onnx(tiny_teacher, tmp_path / "b.onnx", several).is_file()  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        to_onnx(tiny_teacher, tmp_path / "c.onnx", ["gone.png"])
    with pytest.raises(OptionError, match=r"is a folder\. Name the \.onnx file"):
        to_onnx(tiny_teacher, tmp_path)
