from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from compressor.cli.command import main
from export import Embedder, inspect
from zoo import ModelError
from zoo.files import digest

INT8, UINT8 = np.int8, np.uint8


def built(
    path: Path, nodes: list[onnx.NodeProto], given: list[Any], taken: list[Any], constants: dict[str, np.ndarray]
) -> Path:
    """Save a graph of these nodes; ``given`` and ``taken`` are its input and output: name and shape."""
    graph = make_graph(
        nodes,
        "hand-made",
        [make_tensor_value_info(given[0], TensorProto.FLOAT, given[1:])],
        [make_tensor_value_info(taken[0], TensorProto.FLOAT, taken[1:])],
        [from_array(value, name) for name, value in constants.items()],
    )
    opsets = [make_opsetid("", 18), make_opsetid("com.microsoft", 1)]
    proto = make_model(graph, opset_imports=opsets, ir_version=8, producer_name="a test")
    onnx.save(proto, path)
    return path


def scales(*names: str, zero: Any = 3) -> dict[str, np.ndarray]:
    """Return a scale and a zero point for each name."""
    return {f"{name}_scale": np.float32(0.1).reshape(()) for name in names} | {
        f"{name}_zero": np.asarray(zero, getattr(zero, "dtype", UINT8)) for name in names
    }


def pair(name: str, domain: str = "") -> list[onnx.NodeProto]:
    """Return the nodes that quantise a value and dequantise it again, into ``NAME_dq``."""
    parameters = [f"{name}_scale", f"{name}_zero"]
    return [
        make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], f"{name}_quantize", domain=domain),
        make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], f"{name}_deq", domain=domain),
    ]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A convolution of 4x3x3x3 weights and 4 biases in integers, and a Gemm of 4x5 weights and 5 biases in float."""
    nodes = [
        *pair("x"),
        make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], "w_deq"),
        make_node("DequantizeLinear", ["b", "b_scale"], ["b_dq"], "b_deq"),
        make_node("Conv", ["x_dq", "w_dq", "b_dq"], ["y"], "first"),
        *pair("y"),
        make_node("GlobalAveragePool", ["y_dq"], ["pooled"], "pool"),
        make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        make_node("Gemm", ["flat", "head", "offset"], ["out"], "last"),
    ]
    constants = scales("x", "y") | {
        "w": np.ones((4, 3, 3, 3), INT8),
        "w_scale": np.full(4, 0.1, np.float32),
        "w_zero": np.zeros(4, INT8),
        "b": np.zeros(4, np.int32),
        "b_scale": np.full(4, 0.1, np.float32),
        "head": np.ones((4, 5), np.float32),
        "offset": np.zeros(5, np.float32),
    }
    nodes[2].attribute.append(onnx.helper.make_attribute("axis", 0))
    nodes[3].attribute.append(onnx.helper.make_attribute("axis", 0))
    return built(tmp_path / "mixed.onnx", nodes, ["x", "N", 3, 8, 8], ["out", "N", 5], constants)


def test_coverage_of_a_graph_worked_by_hand(mixed: Path) -> None:
    onnx.checker.check_model(str(mixed), full_check=True)
    content = inspect(mixed)
    assert content["computing"] == [
        {"name": "first", "operator": "Conv", "precision": "int8", "weight": "w", "weights": 108},
        {"name": "last", "operator": "Gemm", "precision": "fp32", "weight": "head", "weights": 20},
    ]
    assert content["operators"] == {"Conv": {"int8": 1}, "Gemm": {"fp32": 1}}
    assert content["nodes"] == 10
    total = 108 + 4 + 20 + 5
    assert content["weights"] == {
        "fp32": {"count": 25, "share": 25 / total, "bytes": 100},
        "int32": {"count": 4, "share": 4 / total, "bytes": 16},
        "int8": {"count": 108, "share": 108 / total, "bytes": 108},
    }


def matmul(first: str, second: str) -> onnx.NodeProto:
    return make_node("MatMul", [first, second], ["out"], "product")


W8, W32 = np.ones((4, 6), INT8), np.ones((4, 6), np.float32)
WEIGHT = [make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], "w_deq")]
SIGNED = scales("w", zero=INT8(0))
DYNAMIC = make_node("DynamicQuantizeLinear", ["x"], ["x_q", "x_scale", "x_zero"], "dynamic")
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str, dict[str, int]]] = {
    "both quantised": (
        [*pair("x"), *WEIGHT, matmul("x_dq", "w_dq")],
        scales("x") | SIGNED | {"w": W8},
        "int8",
        {"int8": 24},
    ),
    "weight alone": ([*WEIGHT, matmul("x", "w_dq")], SIGNED | {"w": W8}, "fp32", {"int8": 24}),
    "activations alone": ([*pair("x"), matmul("x_dq", "w")], scales("x") | {"w": W32}, "fp32", {"fp32": 24}),
    "activations in 16 bits": (
        [*pair("x", "com.microsoft"), *WEIGHT, matmul("x_dq", "w_dq")],
        scales("x", zero=np.uint16(3)) | SIGNED | {"w": W8},
        "fp32",
        {"int8": 24},
    ),
    "weights stored as floats": (
        [*pair("x"), *pair("w"), matmul("x_dq", "w_dq")],
        scales("x", "w", zero=INT8(0)) | {"w": W32},
        "int8",
        {"fp32": 24},
    ),
    "float": ([matmul("x", "w")], {"w": W32}, "fp32", {"fp32": 24}),
    "weight of a Constant": (
        [make_node("Constant", [], ["w"], "weight", value=from_array(W32)), matmul("x", "w")],
        {},
        "fp32",
        {"fp32": 24},
    ),
    "two activations": (
        [make_node("Transpose", ["x"], ["t"], "turn"), *pair("x"), *pair("t"), matmul("t_dq", "x_dq")],
        scales("x", "t"),
        "int8",
        {},
    ),
    "dynamic": (
        [
            DYNAMIC,
            make_node("MatMulInteger", ["x_q", "w", "x_zero", "w_zero"], ["whole"], "product"),
            make_node("Cast", ["whole"], ["cast"], "cast", to=TensorProto.FLOAT),
            make_node("Mul", ["x_scale", "w_scales"], ["scale"], "scales"),
            make_node("Mul", ["cast", "scale"], ["out"], "scaled"),
        ],
        {"w": W8, "w_zero": np.zeros(6, INT8), "w_scales": np.ones(6, np.float32)},
        "int8",
        {"int8": 24},
    ),
    "QLinearMatMul": (
        [
            *pair("x")[:1],
            make_node(
                "QLinearMatMul",
                ["x_q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"],
                ["y_q"],
                "product",
            ),
            make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["out"], "y_deq"),
        ],
        scales("x", "y") | {"w": W8, "w_scale": np.ones(6, np.float32), "w_zero": np.zeros(6, INT8)},
        "int8",
        {"int8": 24},
    ),
    "QGemm": (
        [
            *pair("x")[:1],
            make_node(
                "QGemm",
                ["x_q", "x_scale", "x_zero", "w", "w_scale", "w_zero", "b"],
                ["out"],
                "product",
                domain="com.microsoft",
            ),
        ],
        scales("x") | SIGNED | {"w": W8, "b": np.zeros(6, np.int32)},
        "int8",
        {"int8": 24, "int32": 6},
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_precision_of_a_product(case: str, tmp_path: Path) -> None:
    nodes, constants, precision, weights = CASES[case]
    file = built(tmp_path / "m.onnx", nodes, ["x", "N", 4], ["out", None, None], constants)
    onnxruntime.InferenceSession(file)  # refuses a graph that nobody can have
    content = inspect(file)
    assert [(entry["name"], entry["precision"]) for entry in content["computing"]] == [("product", precision)]
    assert {kind: entry["count"] for kind, entry in content["weights"].items()} == weights


def test_int8_is_what_onnxruntime_runs_in_int8(files: dict[str, Path], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(files["int8"], options)
    run = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (run["QLinearConv"], run["QGemm"], run["Conv"] + run["FusedConv"], run["Gemm"]) == (12, 1, 3, 0)
    content = inspect(files["int8"])
    assert content["operators"] == {"Conv": {"int8": 12, "fp32": 3}, "Gemm": {"int8": 1}}
    floats = [entry["weight"] for entry in content["computing"] if entry["precision"] == "fp32"]
    assert len(floats) == 3 and all("layer4.0" in name for name in floats)
    # As onnxruntime then holds them, too.
    assert inspect(tmp_path / "optimised.onnx")["weights"]["int8"] == content["weights"]["int8"]


def test_files_of_every_precision(files: dict[str, Path]) -> None:
    whole = inspect(files["fp32"])
    count = whole["weights"]["fp32"]["count"]
    assert count == sum(
        int(np.prod(t.dims)) for t in onnx.load(files["fp32"]).graph.initializer if t.data_type == 1 and t.dims
    )
    half = inspect(files["fp16"])
    assert half["operators"] == {"Conv": {"fp16": 15}, "Gemm": {"fp16": 1}}
    assert half["weights"]["fp16"] == {"count": count, "share": 1.0, "bytes": 2 * count}
    dynamic = inspect(files["dynamic"])
    assert dynamic["operators"] == {"ConvInteger": {"int8": 15}, "MatMulInteger": {"int8": 1}}
    static = inspect(files["int8"])["weights"]
    assert sum(entry["count"] for entry in static.values()) == count
    assert sum(entry["share"] for entry in static.values()) == pytest.approx(1)


def test_what_a_file_says_of_itself(files: dict[str, Path]) -> None:
    content = inspect(files["int8"])
    metadata = Embedder(files["int8"]).metadata
    assert content["made_by_export"] and content["opset"]["ai.onnx"] == 18
    assert content["digest"] == digest(files["int8"]) and content["bytes"] == files["int8"].stat().st_size
    assert content["inputs"] == [{"name": "image", "type": "uint8", "shape": ["N", "H", "W", 3]}]
    assert content["outputs"] == [{"name": "embedding", "type": "float32", "shape": ["N", 8]}]
    for key in ("architecture", "dim", "metric", "parameters", "precision"):
        assert content[key] == metadata[key]
    assert content["quantization"]["float_blocks"] == ["layer4.0"]
    assert content["preprocessing"] == json.loads(metadata["preprocessing"])
    tensor = inspect(files["tensor"])
    assert tensor["inputs"] == [{"name": "tensor", "type": "float32", "shape": ["N", 3, 32, 32]}]


def test_in_the_shell(files: dict[str, Path], capsys: Any) -> None:
    assert main(["inspect", str(files["int8"])]) == 0
    text = capsys.readouterr().out
    for said in (
        "inside the file: resized to cover",
        "Conv, Gemm and MatMul: 3 fp32, 13 int8",
        "scheme u8s8 per-channel minmax",
        "layer4.0.conv1.weight",
        f"sha256:{digest(files['int8'])}",
    ):
        assert said in text
    assert main(["inspect", str(files["int8"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == inspect(files["int8"])
    assert main(["inspect", str(files["tensor"])]) == 0
    assert "left to the caller: resized to cover" in capsys.readouterr().out


def test_all_float_nodes_are_named_when_asked(tmp_path: Path, capsys: Any) -> None:
    nodes = [*pair("x"), *WEIGHT, make_node("MatMul", ["x_dq", "w_dq"], ["v0"], "in8")]
    nodes += [make_node("MatMul", [f"v{i}", "s"], [f"v{i + 1}"], f"float{i}") for i in range(7)]
    constants = scales("x") | SIGNED | {"w": W8, "s": np.ones((6, 6), np.float32)}
    file = built(tmp_path / "m.onnx", nodes, ["x", "N", 4], ["v7", "N", 6], constants)
    assert main(["inspect", str(file)]) == 0
    text = capsys.readouterr().out
    assert "float4 (s)" in text and "float5" not in text and "and 2 more" in text
    assert main(["inspect", str(file), "--nodes"]) == 0
    text = capsys.readouterr().out
    assert "float6 (s)" in text and "more" not in text


def test_files_of_others(mixed: Path, tmp_path: Path, capsys: Any) -> None:
    proto = onnx.load(mixed)
    onnx.helper.set_model_props(proto, {"preprocessing": "resize!", "data": "mine", "author": "[bold]me"})
    proto.graph.node.append(make_node("Unheard", ["out"], ["more"], "u", domain="of.mine"))
    onnx.save(proto, mixed)
    content = inspect(mixed)
    assert not content["made_by_export"] and content["architecture"] is None
    assert content["operators"] == {"Conv": {"int8": 1}, "Gemm": {"fp32": 1}}
    assert (content["preprocessing"], content["data"]) == ("resize!", "mine")
    onnx.helper.set_model_props(proto, {"data": "[" * 100_000})
    onnx.save(proto, tmp_path / "deep.onnx")
    assert inspect(tmp_path / "deep.onnx")["data"] == "[" * 100_000
    assert main(["inspect", str(mixed)]) == 0
    text = capsys.readouterr().out
    assert "a test; not by compressor export" in text and "[bold]me" in text and '"resize!"' in text


@pytest.mark.parametrize("crop", [0, 1e-320, None])
def test_preprocessing_that_cannot_be_is_shown_as_it_is_written(crop: float | None, mixed: Path, capsys: Any) -> None:
    said = {"inside": True, "input_size": [3, 32, 32], "crop_pct": crop, "interpolation": "bicubic"}
    written = json.dumps(said | {"crop_mode": "center", "mean": [0.5] * 3, "std": [0.5] * 3})
    proto = onnx.load(mixed)
    onnx.helper.set_model_props(proto, {"preprocessing": written})
    onnx.save(proto, mixed)
    assert main(["inspect", str(mixed)]) == 0
    assert f'"crop_pct": {json.dumps(crop)}' in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08", None])
def test_what_is_not_onnx(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx (is not an ONNX file|does not exist)"):
        inspect(file)


def test_a_graph_that_goes_round_in_a_circle_ends(tmp_path: Path) -> None:
    helper = onnx.helper
    nodes = [
        helper.make_node("Identity", ["b"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("MatMul", ["x", "c"], ["z"]),
        helper.make_node("DequantizeLinear", [], ["c"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    proto = helper.make_model(helper.make_graph(nodes, "circle", values[:1], values[1:]))
    proto.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(proto, tmp_path / "circle.onnx")
    content = inspect(tmp_path / "circle.onnx")
    assert [entry["weight"] for entry in content["computing"]] == [None, None]


def test_an_antialiased_resize_is_told(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Some accelerators refuse such a file; the one that takes tensors has none."""
    (node,) = inspect(files["fp32"])["antialiased_resize"]
    assert node.startswith("preprocess/") and inspect(files["tensor"])["antialiased_resize"] == []
    assert main(["inspect", str(files["fp32"])]) == 0
    assert "resizes with antialiasing" in (told := capsys.readouterr().out) and "--input tensor" in told
    assert main(["inspect", str(files["tensor"])]) == 0
    assert "antialiasing" not in capsys.readouterr().out
