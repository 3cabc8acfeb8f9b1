"""Teachers of every kind return the embeddings that direct computation gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import to_onnx
from export.onnx.tracing import smooth_images
from zoo import load_model
from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError, OptionError
from zoo.models.folder import save_model
from zoo.models.making import create_model
from zoo.models.network import normalize_embeddings, preprocessing_of
from zoo.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Normalize, Preprocess, Preprocessing
from zoo.teachers.base import resize_views
from zoo.teachers.onnx_file import OnnxTeacher
from zoo.teachers.opening import open_teacher
from zoo.teachers.ready import ArrayTeacher
from zoo.teachers.torch_module import TorchTeacher


class SmallNet(nn.Module):
    """A network of somebody else's: float pixels in, 6 numbers out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm2d(5), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.layers(x))
        return embeddings


def lively(model: nn.Module) -> nn.Module:
    """Give BatchNorm layers statistics that matter, so that training mode would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def network(metric: str = "cosine", crop_pct: float = 0.9, image_size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return lively(create_model("test_resnet", 8, image_size=image_size, crop_pct=crop_pct, metric=metric)).eval()


def foreign(path: Path, batch: int | str = "N", side: int = 24) -> tuple[SmallNet, Path]:
    torch.manual_seed(1)
    net = lively(SmallNet()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2 if batch == "N" else batch, 3, side, side),),
            path,
            dynamo=True,
            dynamic_shapes={"x": {0: "N"}} if batch == "N" else None,
            verbose=False,
        )
    return net, path  # type: ignore[return-value]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Five images of different shapes."""
    shapes = [(160, 160), (90, 160), (160, 70), (40, 41), (24, 24)]
    pixels = [image[:height, :width] for image, (height, width) in zip(smooth_images(5), shapes, strict=True)]
    return ImageSet([f"folder/{i}.png" for i in range(5)], pixels)


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Views of images 2, 0, 2 and 4, uint8 (4, 3, 32, 32)."""
    return torch.from_numpy(np.stack([image[20:84:2, 40:104:2] for image in smooth_images(4)])).permute(0, 3, 1, 2)


INDICES = torch.tensor([2, 0, 2, 4])


def directly(model: nn.Module, images: ImageSet, preprocessing: Preprocessing) -> np.ndarray:
    prepare = Preprocess(preprocessing)
    with torch.no_grad():
        rows = [model(prepare(torch.from_numpy(images.pixels(i))[None])) for i in range(len(images))]
    return torch.cat(rows).numpy()


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


def test_a_model_folder(images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    model = network("euclidean")
    save_model(model, tmp_path / "mine")
    teacher = open_teacher(tmp_path / "mine")
    assert (teacher.name, teacher.metric, teacher.input_size) == ("mine", "euclidean", (32, 32))
    assert teacher.parameters() == sum(parameter.numel() for parameter in model.parameters())
    close(teacher.embed_images(images), directly(model, images, preprocessing_of(model)))
    with torch.no_grad():
        close(teacher.embed_views(views, INDICES, images), model(Normalize(preprocessing_of(model))(views)))


def test_a_module_of_any_make_is_in_eval_mode_and_without_gradient(images: ImageSet, views: Tensor) -> None:
    torch.manual_seed(1)
    net = lively(SmallNet()).eval()
    contract = Preprocessing((24, 24), 1.0)
    expected = directly(net, images, contract)
    with torch.no_grad():
        pixels = functional.interpolate(views.float(), size=(24, 24), mode="bilinear", antialias=True)
        expected_views = net(normalised(pixels))
    net.train()
    teacher = TorchTeacher(net, contract, metric="euclidean", name="small")
    assert (teacher.name, teacher.metric, teacher.input_size) == ("small", "euclidean", (24, 24))
    close(teacher.embed_images(images), expected)
    net.train()  # as a Lightning module that holds it might
    found = teacher.embed_views(views, INDICES, images)
    close(found, expected_views)
    assert not found.requires_grad
    assert not net.training
    assert all(parameter.requires_grad for parameter in net.parameters())  # it stays the user's, who may train on
    plain = open_teacher(SmallNet())
    assert (plain.name, plain.metric, plain.input_size) == ("SmallNet", "cosine", (224, 224))
    assert open_teacher(plain) is plain


def test_reduced_precision_is_near_and_comes_back_as_float32(images: ImageSet, views: Tensor) -> None:
    model = network()
    exact = TorchTeacher(model).embed_views(views, INDICES, images)
    reduced = TorchTeacher(model, precision="bf16").embed_views(views, INDICES, images)
    assert reduced.dtype == torch.float32
    difference = float((reduced - exact).abs().max() / exact.abs().max())
    assert 1e-5 < difference < 0.05
    with pytest.raises(OptionError, match="'fp8'; known are fp32, bf16, fp16 and auto"):
        open_teacher(model, precision="fp8")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_feature_maps_on_the_way(precision: str, images: ImageSet, views: Tensor) -> None:
    model = network()
    teacher = TorchTeacher(model.train(), precision=precision)
    embeddings, maps = teacher.embed_views_with_maps(views, INDICES, images)
    assert torch.equal(embeddings, teacher.embed_views(views, INDICES, images))
    assert [map_.shape[1] for map_ in maps] == [32, 32, 48, 192, 96]
    assert not model.training and not any(map_.requires_grad for map_ in maps)
    with torch.no_grad():
        last = model.forward_features(Normalize(preprocessing_of(model))(views))  # type: ignore[operator]
    close(maps[-1].float(), last, 1e-5 if precision == "fp32" else 0.05)


def test_teachers_without_feature_maps_are_named(images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    ready = ArrayTeacher({name: np.ones(3, np.float32) for name in images.ids})
    onnx_file = OnnxTeacher(foreign(tmp_path / "net.onnx")[1])
    for teacher, name in ((ready, "embeddings"), (onnx_file, "net.onnx"), (TorchTeacher(SmallNet()), "SmallNet")):
        with pytest.raises(OptionError, match=f"{name} gives no feature maps"):
            teacher.embed_views_with_maps(views, INDICES, images)


@pytest.mark.parametrize(("metric", "crop_pct"), [("cosine", 0.9), ("euclidean", 0.72)])  # borders of 3 and 12 pixels
def test_an_onnx_file_of_ours(metric: str, crop_pct: float, images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    model = network(metric, crop_pct)
    teacher = open_teacher(to_onnx(model, tmp_path / "model.onnx"))
    assert (teacher.name, teacher.metric, teacher.input_size) == ("model.onnx", metric, (32, 32))
    expected = torch.from_numpy(directly(model, images, preprocessing_of(model)))
    torch_views = TorchTeacher(model).embed_views(views, INDICES, images)
    if metric == "cosine":
        expected, torch_views = normalize_embeddings(expected), normalize_embeddings(torch_views)
    close(teacher.embed_images(images), expected)
    close(teacher.embed_views(views, INDICES, images), torch_views)
    # Views of another size are brought to the network's; the file takes them as bytes.
    large = functional.interpolate(views.float(), size=(50, 70), mode="bilinear").to(torch.uint8)
    torch_views = TorchTeacher(model).embed_views(large, INDICES, images)
    torch_views = normalize_embeddings(torch_views) if metric == "cosine" else torch_views
    found = teacher.embed_views(large, INDICES, images)
    assert float((found - torch_views).norm() / torch_views.norm()) < 0.01


def test_an_onnx_file_of_another_make(images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    net, path = foreign(tmp_path / "small.onnx")
    teacher = open_teacher(path)
    assert (teacher.name, teacher.metric, teacher.input_size) == ("small.onnx", "cosine", (24, 24))
    close(teacher.embed_images(images), directly(net, images, Preprocessing((24, 24))))
    pixels = functional.interpolate(views.float(), size=(24, 24), mode="bilinear", antialias=True)
    with torch.no_grad():
        close(teacher.embed_views(views, INDICES, images), net(normalised(pixels)))
    own = Preprocessing((24, 24), 0.8, "bicubic", "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    teacher = OnnxTeacher(path, own, metric="euclidean")
    assert teacher.metric == "euclidean"
    close(teacher.embed_images(images), directly(net, images, own))


def table() -> dict[str, np.ndarray]:
    return {f"folder/{i}.png": np.random.default_rng(i).normal(size=3) for i in range(7)}  # two more than are needed


@pytest.mark.parametrize("kind", ["mapping", "npz"])
def test_ready_embeddings(kind: str, images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    rows = table()
    path = tmp_path / "table.npz"
    np.savez(path, ids=np.array(list(rows)[::-1]), embeddings=np.stack(list(rows.values())[::-1]))
    teacher = open_teacher(rows if kind == "mapping" else path)
    assert (teacher.metric, teacher.input_size, teacher.parameters()) == ("cosine", None, None)
    assert teacher.name == ("embeddings" if kind == "mapping" else "table.npz")
    close(teacher.embed_images(images), [rows[name] for name in images.ids], 1e-6)
    expected = [rows[f"folder/{i}.png"] for i in (2, 0, 2, 4)]
    close(teacher.embed_views(views, INDICES, images), expected, 1e-6)


def test_missing_ids_are_named(images: ImageSet, views: Tensor) -> None:
    rows = table()
    del rows["folder/2.png"]
    teacher = ArrayTeacher(rows)
    with pytest.raises(DataError, match=r"'folder/2\.png' \(1 of 5 missing\)"):
        teacher.embed_images(images)
    with pytest.raises(DataError, match=r"'folder/2\.png' \(2 of 4 missing\)"):
        teacher.embed_views(views, INDICES, images)


BROKEN_TABLES: list[tuple[str, dict[str, Any]]] = [
    ("pickled", {"ids": np.array(["a"]), "embeddings": np.array([{"x": 1}], dtype=object)}),
    ("pickled ids", {"ids": np.array(["a"], dtype=object), "embeddings": np.zeros((1, 2))}),
    ("without ids", {"embeddings": np.zeros((1, 2))}),
    ("one id", {"ids": np.array("a"), "embeddings": np.zeros((1, 2))}),
    ("text", {"ids": np.array(["a"]), "embeddings": np.array([["x"]])}),
    ("too few", {"ids": np.array(["a", "b"]), "embeddings": np.zeros((1, 2))}),
    ("too many", {"ids": np.array(["a"]), "embeddings": np.zeros((2, 2))}),
    ("twice", {"ids": np.array(["a", "a"]), "embeddings": np.zeros((2, 2))}),
    ("flat", {"ids": np.array(["a", "b"]), "embeddings": np.zeros(2)}),
    ("infinite", {"ids": np.array(["a"]), "embeddings": np.array([[1.0, np.inf]])}),
]


@pytest.mark.parametrize(("name", "arrays"), BROKEN_TABLES, ids=[name for name, _ in BROKEN_TABLES])
def test_broken_tables_are_named(name: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"{name}.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=rf"{name}\.npz") as error:
        open_teacher(path)
    assert str(error.value).count("\n") == 0


def test_the_image_of_a_row_that_is_not_finite_is_named() -> None:
    rows = {"a.png": np.zeros(2), "b.png": np.array([0, np.nan]), "c.png": np.array([1e39, 0])}
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"2 of 3 embeddings.*the first of image 'b\.png'"):
        open_teacher(rows)


@pytest.mark.parametrize("rows", [{}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": ["x"]}, {"a": [np.nan]}, {"a": 1.0}])
def test_broken_mappings_are_named(rows: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"[Tt]eacher.*embeddings"):
        open_teacher(rows)


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    for suffix, content in (("npz", b""), ("npz", b"junk" * 50), ("onnx", b""), ("onnx", b"junk" * 50), ("pt", b"")):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(content)
        with pytest.raises((DataError, ModelError), match=rf"broken\.{suffix}") as error:
            open_teacher(path)
        assert str(error.value).count("\n") == 0
    np.save(tmp_path / "array.npy", np.zeros((2, 3)))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match=r"array\.npz must be an \.npz file"):
        open_teacher(tmp_path / "array.npz")
    for name in ("gone.npz", "gone.onnx", "gone"):
        with pytest.raises((DataError, ModelError), match=f"{name} does not exist"):
            open_teacher(tmp_path / name)
    with pytest.raises(ModelError, match=r"config\.json does not exist"):
        open_teacher(tmp_path)


def test_onnx_files_that_are_no_teachers(images: ImageSet, tmp_path: Path) -> None:
    def save(name: str, shape: list[Any], kind: int, nodes: Callable[[], list[onnx.NodeProto]]) -> Path:
        given = onnx.helper.make_tensor_value_info("x", kind, shape)
        made = onnx.helper.make_tensor_value_info("y", kind, None)
        graph = onnx.helper.make_graph(nodes(), "graph", [given], [made])
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(proto, tmp_path / name)
        return tmp_path / name

    def identity() -> list[onnx.NodeProto]:
        return [onnx.helper.make_node("Identity", ["x"], ["y"])]

    with pytest.raises(ModelError, match=r"rows\.onnx must have one image input, found x \("):
        open_teacher(save("rows.onnx", ["N", 5], onnx.TensorProto.FLOAT, identity))
    with pytest.raises(ModelError, match=r"longs\.onnx takes tensor\(int64\); it must take one of tensor\(float\)"):
        open_teacher(save("longs.onnx", ["N", "H", "W", 3], onnx.TensorProto.INT64, identity))
    maps = open_teacher(save("maps.onnx", ["N", 3, 16, 16], onnx.TensorProto.FLOAT, identity))
    with pytest.raises(ModelError, match=r"maps\.onnx must give \(N, D\) embeddings, found shape \(1, 3, 16, 16\)"):
        maps.embed_images(images)


def test_a_teacher_in_int8_adds_up_large_products_exactly(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        sums (float[N, 3, 8, 8] x) => (float[N, D] y)
        <float step = {0.0104}, float one = {0.007874}, float large = {2.0}, uint8 zero = {0}, int8 none = {0}>
        {
            x8 = QuantizeLinear(x, step, zero)
            rounded = DequantizeLinear(x8, step, zero)
            shape = Constant <value_ints = [8, 3, 8, 8]> ()
            w8 = ConstantOfShape <value = int8[1] {127}> (shape)
            w = DequantizeLinear(w8, one, none)
            sums = Conv(rounded, w)
            sums8 = QuantizeLinear(sums, large, zero)
            found = DequantizeLinear(sums8, large, zero)
            y = Flatten(found)
        }
    """)
    onnx.save(proto, tmp_path / "int8.onnx")
    white = ImageSet(["white.png"], [np.full((8, 8, 3), 255, dtype=np.uint8)])
    expected = directly(nn.Sequential(nn.AvgPool2d(8, divisor_override=1), nn.Flatten()), white, Preprocessing((8, 8)))
    found = OnnxTeacher(tmp_path / "int8.onnx", metric="euclidean").embed_images(white)
    np.testing.assert_allclose(found, np.full((1, 8), expected.sum()), atol=2)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_of_a_fixed_batch_gets_batches_of_its_size(
    batch: int, images: ImageSet, views: Tensor, tmp_path: Path
) -> None:
    net, path = foreign(tmp_path / "fixed.onnx", batch=batch)
    teacher = open_teacher(path)
    close(teacher.embed_images(images), directly(net, images, Preprocessing((24, 24))))
    _, dynamic = foreign(tmp_path / "any.onnx")
    close(
        teacher.embed_views(views, INDICES, images).numpy(),
        open_teacher(dynamic).embed_views(views, INDICES, images).numpy(),
    )


def test_the_digest_changes_when_the_teacher_does(tmp_path: Path) -> None:
    model = network()
    save_model(model, tmp_path / "folder")
    first = open_teacher(tmp_path / "folder").digest
    assert TorchTeacher(network()).digest == TorchTeacher(load_model(tmp_path / "folder")).digest == first
    assert len(first) == 16
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[3] += 1e-3
    assert TorchTeacher(model).digest != first
    model = network()
    next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")).add_(1e-3)
    assert TorchTeacher(model).digest != first

    rows = table()
    digest = ArrayTeacher(rows).digest
    assert ArrayTeacher(dict(rows)).digest == digest
    assert ArrayTeacher(rows | {"folder/0.png": rows["folder/0.png"] + 1e-3}).digest != digest
    assert ArrayTeacher({f"{name}!": row for name, row in rows.items()}).digest != digest

    _, path = foreign(tmp_path / "a.onnx")
    digest = OnnxTeacher(path).digest
    proto = onnx.load(path)
    proto.producer_name = "somebody else"
    onnx.save(proto, path)
    assert OnnxTeacher(path).digest != digest


def test_views_are_resized_antialiased() -> None:
    views = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_views(views, (8, 8)), views.float())
    halved = resize_views(views, (4, 4))
    # To half the size the antialiased filter weighs 1, 3, 3, 1 eighths along each side.
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    inner = torch.einsum("ncij,i,j->nc", views[:, :, 1:5, 3:7].float(), weights, weights)
    torch.testing.assert_close(halved[:, :, 1, 2], inner)


class Wrapped(nn.Module):
    """A network whose output is something else than vectors."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = lively(SmallNet())
        self.give = give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.net(x))


def test_modules_that_give_no_vectors_are_named(images: ImageSet) -> None:
    for give, found in (
        (lambda y: (y, y), "tuple"),
        (lambda y: {"pooled": y}, "dict"),
        (lambda y: y[:, :, None, None].expand(-1, -1, 2, 2), r"shape \(5, \d+, 2, 2\)"),
        (lambda y: y[:, :0], r"shape \(5, 0\)\."),
        (lambda y: torch.complex(y, y), r"shape \(5, \d+\), torch.complex64"),
        (lambda y: y.to_sparse(), r"shape \(5, \d+\), torch.sparse_coo"),
    ):
        with pytest.raises(ModelError, match=rf"Wrapped must give a tensor \(N, D\) of embeddings, found {found}"):
            TorchTeacher(Wrapped(give)).embed_images(images)


def test_maps_of_one_pixel_count_as_vectors(images: ImageSet, views: Tensor) -> None:
    torch.manual_seed(1)
    plain = Wrapped(lambda y: y)
    maps = Wrapped(lambda y: y[:, :, None, None])
    maps.load_state_dict(plain.state_dict())
    close(TorchTeacher(maps).embed_images(images), TorchTeacher(plain).embed_images(images), 0)
    found = TorchTeacher(maps).embed_views(views, INDICES, images)
    assert found.ndim == 2
    close(found.numpy(), TorchTeacher(plain).embed_views(views, INDICES, images).numpy(), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type(dtype: torch.dtype, images: ImageSet, views: Tensor) -> None:
    torch.manual_seed(1)
    net = lively(SmallNet()).eval()
    teacher, typed = TorchTeacher(net), TorchTeacher(deepcopy(net).to(dtype))
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    close(typed.embed_images(images), teacher.embed_images(images), tolerance)
    close(
        typed.embed_views(views, INDICES, images).numpy(),
        teacher.embed_views(views, INDICES, images).numpy(),
        tolerance,
    )


def test_files_with_channels_last_or_in_half_precision(images: ImageSet, views: Tensor, tmp_path: Path) -> None:
    _, path = foreign(tmp_path / "plain.onnx")
    expected = open_teacher(path)
    last = onnx.load(path)
    name = last.graph.input[0].name
    turn = onnx.helper.make_node("Transpose", ["pixels"], [name], perm=[0, 3, 1, 2])
    last.graph.node.insert(0, turn)
    del last.graph.input[:]
    last.graph.input.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", 24, 24, 3]))
    onnx.save(last, tmp_path / "last.onnx")
    half = onnx.load(path)
    half.graph.node.insert(0, onnx.helper.make_node("Cast", ["pixels"], [name], to=onnx.TensorProto.FLOAT))
    del half.graph.input[:]
    half.graph.input.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT16, ["N", 3, 24, 24]))
    onnx.save(half, tmp_path / "half.onnx")
    for file, tolerance in (("last.onnx", 1e-5), ("half.onnx", 5e-3)):
        teacher = open_teacher(tmp_path / file)
        assert teacher.input_size == (24, 24)
        close(teacher.embed_images(images), expected.embed_images(images), tolerance)
        found = teacher.embed_views(views, INDICES, images).numpy()
        close(found, expected.embed_views(views, INDICES, images).numpy(), tolerance)


def test_the_digest_knows_how_a_teacher_is_used() -> None:
    model = network()
    other = Preprocessing((32, 32), mean=(0.0, 0.0, 0.0))
    teachers = [TorchTeacher(model), TorchTeacher(model, metric="euclidean"), TorchTeacher(model, other)]
    rows = {"a": np.ones(2), "b": np.zeros(2)}
    teachers += [ArrayTeacher(rows), ArrayTeacher(rows, metric="euclidean")]  # type: ignore[list-item]
    assert len({teacher.digest for teacher in teachers}) == 5


def test_embeddings_by_path_and_as_tensors() -> None:
    with_grad = torch.ones(2, requires_grad=True)
    teacher = ArrayTeacher({Path("folder/0.png"): with_grad})  # type: ignore[dict-item]
    assert teacher._rows(["folder/0.png"]) == [0]
