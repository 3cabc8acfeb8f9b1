"""The hub folder: the files for each library, and what is refused. The libraries themselves: tests/ecosystem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from compressor.int8_finish.shipping import ship
from export.hub.folder import is_hub_folder, write_hub
from export.hub.networks import require_expressible
from export.hub.preprocessor import pillow_tensor, preprocessor_config
from export.hub.sentence_transformers import write_sentence_transformers
from export.onnx.tracing import smooth_images
from export.runtime import Embedder
from export.shipping import Exported
from zoo.errors import ModelError, OptionError, RefusedError
from zoo.formats.preprocessing import Preprocessing
from zoo.models.facts import ModelFacts, set_facts
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model


def saved(folder: Path, arch: str = "test_resnet", metric: str = "cosine", **options: Any) -> Path:
    torch.manual_seed(0)
    model = create_model(arch, 8, image_size=options.pop("image_size", 32), metric=metric, **options).eval()
    set_facts(model, ModelFacts(metric=metric, options={"pretrained": "/home/me/weights.safetensors"}))
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fp32 and fp16."""
    root = tmp_path_factory.mktemp("hub")
    write_hub(saved(root / "student"), root / "out", license="mit", precision="fp16,fp32")
    return root / "out"


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def run(file: Path, **given: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(file)).run(None, given)[0])


def test_a_folder_holds_what_the_libraries_look_for_and_no_pickle(hub: Path) -> None:
    found = {str(file.relative_to(hub)) for file in hub.rglob("*") if file.is_file()}
    assert found == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "modules.json"),
        *("config_sentence_transformers.json", "sentence_bert_config.json", "1_Dense/config.json"),
        *("1_Dense/model.safetensors", "2_Normalize/config.json", "onnx/model.onnx", "onnx/model_fp16.onnx"),
        *("pixels/model.onnx", "pixels/model-fp16.onnx"),
    }
    assert is_hub_folder(hub) and not is_hub_folder(hub.parent / "student")


def test_files_name_no_place_of_the_machine(hub: Path) -> None:
    for file in hub.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert str(hub.parent).encode() not in content and b"/home/me" not in content, file


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_tensor_file_is_the_pixels_file_behind_its_preprocessing(hub: Path, precision: str) -> None:
    image = smooth_images(1)[0]
    names = {"fp32": ("model.onnx", "model.onnx"), "fp16": ("model-fp16.onnx", "model_fp16.onnx")}[precision]
    from zoo.models.preprocessing import Preprocess

    tensor = Preprocess(Preprocessing.of(load_model(hub).pretrained_cfg))(torch.from_numpy(image)[None]).numpy()
    expected = Embedder(hub / "pixels" / names[0])(image)
    found = run(hub / "onnx" / names[1], pixel_values=tensor)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    proto = onnx.load(hub / "onnx" / names[1])
    assert [port.name for port in (*proto.graph.input, *proto.graph.output)] == ["pixel_values", "image_embeds"]
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about["preprocessing"])["inside"] is False and about["precision"] == precision


@pytest.mark.parametrize(
    ("arch", "metric", "options"),
    [
        ("test_resnet", "euclidean", {}),
        ("test_vit", "cosine", {}),  # tokens pooled
        ("test_efficientnet", "euclidean", {"pool": "avgmax"}),
        ("mobilenetv4_conv_small_050", "cosine", {}),  # a layer between pooling and head
    ],
)
def test_every_kind_of_network_is_the_same_in_each_library(
    arch: str, metric: str, options: dict[str, Any], tmp_path: Path
) -> None:
    out, shown = saved(tmp_path / "out", arch, metric, **options), torch.rand(3, 3, 32, 32)
    model = load_model(out)
    require_expressible(model, out)
    write_sentence_transformers(model, out)
    config = read(out / "config.json")
    # As transformers makes it for image classification, and as sentence-transformers does of its AutoModel.
    made = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"]).eval()
    made.load_state_dict(load_file(out / "model.safetensors"))
    body = timm.create_model(config["architecture"], num_classes=0, **config["model_args"]).eval()
    body.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    dense = load_file(out / "1_Dense" / "model.safetensors")
    with torch.no_grad():
        pooled = body.forward_head(body.forward_features(shown))
        headed = functional.linear(pooled, dense["linear.weight"], dense["linear.bias"])
        by_timm = timm.create_model(f"local-dir:{out}", pretrained=True).eval()(shown)
        for found in (by_timm, made(shown), headed):
            torch.testing.assert_close(found, model(shown), atol=1e-5, rtol=0)
    kinds = [module["type"].rpartition(".")[2] for module in read(out / "modules.json")]
    assert kinds == ["Transformer", "Dense", *(["Normalize"] if metric == "cosine" else [])]
    assert read(out / "config_sentence_transformers.json")["similarity_fn_name"] == metric
    assert read(out / "1_Dense" / "config.json")["out_features"] == 8


def test_a_network_that_a_library_would_make_differently_is_refused(tmp_path: Path) -> None:
    """The padding of a convolution, which no configuration of timm's records."""
    out = saved(tmp_path / "out")
    model = load_model(out)
    next(part for part in model.modules() if isinstance(part, torch.nn.Conv2d)).padding_mode = "reflect"
    with pytest.raises(ModelError, match=r"timm would not make test_resnet as it is here .* other embeddings"):
        require_expressible(model, out)


def test_transformers_can_make_the_network_of_a_model_folder(tmp_path: Path) -> None:
    """It passes num_classes and model_args to timm: a name in both is a TypeError, as in transformers 5.24."""
    config = read(saved(tmp_path / "student") / "config.json")
    assert "num_classes" not in config["model_args"] and config["num_classes"] == 8


def test_preprocessing_in_the_format_of_transformers() -> None:
    config = preprocessor_config(Preprocessing((48, 48), crop_pct=0.9, interpolation="bicubic"))
    assert config["size"] == {"shortest_edge": 53} and config["crop_size"] == {"height": 48, "width": 48}
    assert config["resample"] == 3 and config["image_mean"] == [0.485, 0.456, 0.406]
    squashed = preprocessor_config(Preprocessing((40, 60), crop_pct=1.0, crop_mode="squash"))
    assert squashed["size"] == {"height": 40, "width": 60} and squashed["resample"] == 2


def test_pillow_s_tensor_of_an_image_that_is_only_cropped() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 51, 3), dtype=np.uint8)
    config = preprocessor_config(Preprocessing((32, 32), crop_pct=1.0, mean=(0.5, 0.25, 0), std=(1, 0.5, 2)))
    found = pillow_tensor(image, config)
    expected = (image[:, 9:41] / 255 - [0.5, 0.25, 0]) / [1, 0.5, 2]  # a margin of 19: 9 to the left
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing((32, 48)), "square sizes only"),
        (Preprocessing((32, 32), crop_mode="center-floor"), "center-floor is not timm's"),
    ],
)
def test_preprocessing_that_the_format_lacks_is_refused(preprocessing: Preprocessing, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        preprocessor_config(preprocessing)


def test_a_head_that_is_not_one_layer_is_refused(tmp_path: Path) -> None:
    student = saved(tmp_path / "student", "levit_128s", image_size=224)
    with pytest.raises(ModelError, match="head of levit_128s is not one linear layer"):
        write_hub(student, tmp_path / "out")
    assert not (tmp_path / "out").exists() and [entry.name for entry in tmp_path.iterdir()] == ["student"]


def test_a_module_of_one_s_own_is_refused(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3))

    save_model(create_model(Own(), 3, image_size=32), tmp_path / "own")
    with pytest.raises(ModelError, match="module of your own"):
        write_hub(tmp_path / "own", tmp_path / "out")


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    student = saved(tmp_path / "student")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"holds other files \(thesis.txt\)"):
        write_hub(student, tmp_path / "out")
    with pytest.raises(OptionError, match="model's own folder"):
        write_hub(student, student)


@pytest.mark.usefixtures("quick_export")
def test_a_later_export_replaces_what_an_earlier_one_wrote_and_keeps_the_repository(tmp_path: Path) -> None:
    student, out = saved(tmp_path / "student"), tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    write_hub(student, out, precision="fp32,int8")
    assert (out / "onnx" / "model_quantized.onnx").is_file()
    write_hub(saved(tmp_path / "other", metric="euclidean"), out)
    assert (out / ".git").is_dir() and not (out / "onnx" / "model_quantized.onnx").exists()
    assert not (out / "2_Normalize").exists() and load_model(out).embedding_facts.metric == "euclidean"
    (out / "config.json").unlink()
    (out / ".stage.0").mkdir()  # as a process leaves it that is killed while the folder is replaced
    write_hub(student, out)
    assert load_model(out).embedding_facts.metric == "cosine" and not (out / ".stage.0").exists()


def test_int8_that_is_refused_leaves_a_folder_without_it(
    quick_export: Callable[..., Exported], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(model: Path, out: Path, **options: Any) -> Any:
        quick_export(model, out, precision="fp32")
        raise RefusedError("Every scheme loses too much.", "Raise max_drop.", {"candidates": []}, None)

    monkeypatch.setattr("export.hub.folder.export_model", refusing)
    with pytest.raises(RefusedError, match="loses too much"):
        write_hub(saved(tmp_path / "student"), tmp_path / "out", precision="fp32,int8", data=f"folder:{photos}")
    assert sorted(file.name for file in (tmp_path / "out" / "onnx").iterdir()) == ["model.onnx"]


def test_int8_goes_by_the_name_that_browsers_take(photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibration_images": 16, "judged_images": 16, "latency_runs": 0, "max_drop": None}
    exported = ship(
        saved(tmp_path / "student"),
        tmp_path / "out",
        layout="hub",
        precision="int8",
        data=f"folder:{photos}",
        validation=0.34,
        **options,
    )
    assert set(exported.files) == {"fp32", "int8"} and all(file.is_file() for file in exported.files.values())
    image = np.asarray(Image.open(photos / "class00" / "0.png"))
    config = read(tmp_path / "out" / "preprocessor_config.json")
    found = run(tmp_path / "out" / "onnx" / "model_quantized.onnx", pixel_values=pillow_tensor(image, config)[None])[0]
    assert float(found @ Embedder(exported.files["int8"])(image)) > 0.99
    assert "16 training images" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "zip"}, "Unknown layout 'zip'"),
        ({"layout": "hub", "out": None}, "Name it: --out"),
        ({"layout": "hub", "teacher": "teacher"}, "Fine-tune it first"),
        ({"layout": "hub", "input": "tensor"}, "files of both inputs"),
        ({"layout": "hub", "license": "Apache License 2.0"}, "must be an identifier"),
        ({"license": "mit"}, "Add --layout hub"),
        ({"parity": True, "input": "tensor"}, "files that take pixels"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        ship(tmp_path / "student", **({"out": tmp_path / "out"} | options))
