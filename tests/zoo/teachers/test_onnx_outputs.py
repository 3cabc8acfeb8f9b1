"""ONNX files made by other tools: outputs, tokens, two towers, and how pixels become their input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, OptionError
from zoo.models.preprocessing import Preprocessing
from zoo.teachers.onnx_file import OnnxTeacher
from zoo.teachers.opening import open_teacher

SIDE = 8


def write(
    path: Path,
    layout: str = "nchw",
    text: bool = False,
    side: int | str = SIDE,
    two: bool = True,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Write a file whose outputs are known.

    Outputs: ``last_hidden_state (n, T, 3)``, ``pooler_output (n, 3)`` the mean of the tokens, ``image_embeds (n, 3)``
    twice that; with text also ``logits (n, 3)``, which depends on the text.
    """
    shape = ["n", 3, side, side] if layout == "nchw" else ["n", side, side, "c"]
    inputs = [helper.make_tensor_value_info("pixel_values", kind, shape)]
    order = [0, 2, 3, 1] if layout == "nchw" else [0, 1, 2, 3]
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["hwc"], perm=order),
        helper.make_node("Reshape", ["hwc", "flat"], ["last_hidden_state"]),
        helper.make_node("ReduceMean", ["last_hidden_state", "axis"], ["pooler_output"], keepdims=0),
        helper.make_node("Add", ["pooler_output", "pooler_output"], ["image_embeds"]),
    ]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", 3])]
    if two:
        outputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])
            for name in ("pooler_output", "image_embeds")
        ]
    else:
        del nodes[3:]
    if text:
        inputs.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "length"]))
        nodes += [
            helper.make_node("Cast", ["input_ids"], ["words"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["words"], ["word"], keepdims=0),
            helper.make_node("Add", ["image_embeds", "word"], ["logits"]),
        ]
        outputs.insert(0, helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]))
    constants = [
        helper.make_tensor("flat", TensorProto.INT64, [3], [0, -1, 3]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants if two else constants[:1])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def images() -> ImageSet:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)]
    return ImageSet([str(number) for number in range(3)], arrays)


def colours(images: ImageSet) -> np.ndarray:
    return np.stack([images.pixels(i).reshape(-1, 3) for i in range(len(images))]) / 255


PLAIN = "size=8,mean=0,std=1,resize=squash"


@pytest.mark.parametrize(
    ("output", "factor", "pooling"),
    [
        ("#pooler_output,", 1, "mean"),
        ("#image_embeds,", 2, "mean"),
        ("#", 2, "mean"),
        ("#last_hidden_state:cls,", 1, "cls"),
        ("#last_hidden_state:mean,", 1, "mean"),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("text", [False, True])
def test_outputs_are_chosen_and_tokens_pooled(
    output: str, factor: int, pooling: str, layout: str, text: bool, images: ImageSet, tmp_path: Path
) -> None:
    file = write(tmp_path / "theirs.onnx", layout, text)
    teacher = open_teacher(f"{file}{output}{PLAIN},layout={layout}")
    tokens = colours(images)
    expected = tokens[:, 0] if pooling == "cls" else tokens.mean(axis=1)
    np.testing.assert_allclose(teacher.embed_images(images), factor * expected, atol=1e-6)
    assert not any("Assumed" in note for note in teacher.notes)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_file_of_another_make_may_take_bytes(layout: str, images: ImageSet, tmp_path: Path) -> None:
    file = write(tmp_path / "bytes.onnx", layout, kind=TensorProto.UINT8)
    teacher = open_teacher(f"{file}#resize=squash,layout={layout}")
    expected = 2 * 255 * colours(images).mean(axis=1)
    np.testing.assert_allclose(teacher.embed_images(images), expected, rtol=1e-6)
    views = torch.from_numpy(np.stack([images.pixels(i) for i in range(3)])).permute(0, 3, 1, 2)
    np.testing.assert_allclose(teacher.embed_views(views, torch.arange(3), images), expected, rtol=1e-6)
    assumed = " ".join(open_teacher(f"{file}#layout={layout}").notes)
    assert "Assumed: 8 x 8 pixels, bytes, which the file normalises" in assumed
    assert "such as bytes.onnx#resize=squash." in assumed
    with pytest.raises(OptionError, match=r"bytes\.onnx takes bytes, which it normalises itself; leave mean and std"):
        open_teacher(f"{file}#mean=0.5")


def test_what_cannot_be_chosen_lists_what_can(tmp_path: Path) -> None:
    file = write(tmp_path / "theirs.onnx")
    with pytest.raises(
        OptionError, match=r"no output 'pooled'. Its outputs are last_hidden_state \(n, 64, 3\), pooler_o"
    ):
        open_teacher(f"{file}#pooled")
    with pytest.raises(
        OptionError, match=r"has tokens, not vectors. Pool tokens with theirs.onnx#last_hidden_state:cls"
    ):
        open_teacher(f"{file}#last_hidden_state")
    tokens = write(tmp_path / "tokens.onnx", two=False)
    with pytest.raises(OptionError, match=r"tokens.onnx#last_hidden_state:mean"):
        open_teacher(str(tokens))
    both = write(tmp_path / "both.onnx", text=True)
    with pytest.raises(OptionError, match="logits depends on input_ids beside the image"):
        open_teacher(f"{both}#logits")


def test_the_choice_is_said_and_makes_another_teacher(tmp_path: Path) -> None:
    file = write(tmp_path / "theirs.onnx")
    first = open_teacher(str(file))
    assert "its output image_embeds is taken" in " ".join(first.notes)
    assert (
        len({first.digest, open_teacher(f"{file}#pooler_output").digest, open_teacher(f"{file}#size=8,std=1").digest})
        == 3
    )


def test_a_processors_configuration_beside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    file = write(tmp_path / "onnx" / "model.onnx")
    said = {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "resample": 3, "do_center_crop": True}
    said |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3], "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    teacher = open_teacher(str(file))
    assert isinstance(teacher, OnnxTeacher)
    found = teacher.preprocessing
    assert (found.input_size, found.resized_size, found.crop_mode) == ((8, 8), (9, 9), "center-floor")
    assert (found.interpolation, found.mean, found.std) == ("bicubic", (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert not any("Assumed" in note for note in teacher.notes)
    over = open_teacher(f"{file}#mean=0.5")
    assert isinstance(over, OnnxTeacher)
    assert over.preprocessing.mean == (0.5, 0.5, 0.5)
    assert over.preprocessing.std == found.std
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said | {"do_pad": True}))
    with pytest.raises(ModelError, match=r"cannot be followed \(do_pad has no counterpart\)"):
        open_teacher(str(file))
    assert isinstance(open_teacher(f"{file}#size=8,mean=0.5,std=0.5"), OnnxTeacher)


def test_without_any_word_the_preprocessing_is_assumed_aloud(tmp_path: Path) -> None:
    teacher = OnnxTeacher(write(tmp_path / "theirs.onnx"))
    assert "Assumed: 8 x 8 pixels" in " ".join(teacher.notes)
    assert teacher.preprocessing == Preprocessing(input_size=(8, 8))


def test_another_size_than_the_files_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "theirs.onnx")
    with pytest.raises(OptionError, match="takes images of 8 x 8 pixels, and its preprocessing makes 16 x 16"):
        open_teacher(f"{file}#size=16")


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("means=0.5", "'means=0.5' is no option of such a teacher.*Did you mean mean"),
        ("mean=0.5/0.4", "it must be one number or three"),
        ("size=big", "it must be pixels, such as 224 or 224x192"),
        ("resize=fit", "it must be center or squash"),
        ("batch_size=0", "it must be a whole number in 1..4096"),
        ("pooler_output:max", "Unknown pooling 'max'; known are cls and mean"),
        ("pooler_output:mean", "has vectors, not tokens. Leave :mean out"),
        ("pooler_output:0", "no output 'pooler_output:0'"),  # as TensorFlow names them
    ],
)
def test_options_that_cannot_be_are_refused(fragment: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "theirs.onnx")
    with pytest.raises(OptionError, match=message):
        open_teacher(f"{file}#{fragment}")


def test_views_are_embedded_in_batches(images: ImageSet, tmp_path: Path) -> None:
    import torch

    file = write(tmp_path / "theirs.onnx")
    views = torch.from_numpy(np.stack([images.pixels(i) for i in range(3)])).permute(0, 3, 1, 2)
    indices = torch.arange(3)
    whole, parts = (open_teacher(f"{file}#{PLAIN}{more}") for more in ("", ",batch_size=2"))
    found = parts.embed_views(views, indices, images)
    np.testing.assert_allclose(found, whole.embed_views(views, indices, images), atol=1e-6)
    np.testing.assert_allclose(found, 2 * colours(images).mean(axis=1), atol=1e-6)
