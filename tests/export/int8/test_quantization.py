from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from export.int8.judge import session_of
from export.int8.quantization import calibrate, fits_float16, to_fp16, to_int8
from export.int8.schemes import Scheme, blocks_of, schemes_for, shallow_stem
from export.onnx.tracing import Traced, trace_model
from zoo import create_model
from zoo.errors import OptionError
from zoo.versions import has_vnni

PER_CHANNEL = Scheme("static", "uint8", True, "minmax")


@pytest.fixture(scope="module")
def inputs() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((1, 3, 32, 32), dtype=np.float32) for _ in range(20)]


def outputs_of(network: ModelProto, tensor: np.ndarray, *names: str) -> list[np.ndarray]:
    """Run a network and return tensors inside it."""
    copied = ModelProto.FromString(network.SerializeToString())
    copied.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # each node as it is written
    session = onnxruntime.InferenceSession(copied.SerializeToString(), options)
    return session.run(list(names) or None, {"tensor": tensor})


def convolution(weight: np.ndarray) -> ModelProto:
    """Return a network of one 1×1 convolution."""
    return convolutions([helper.make_node("Conv", ["tensor", "conv.weight"], ["vector"], name="conv")], conv=weight)


def convolutions(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> ModelProto:
    """Return a network of 1×1 convolutions, from ``tensor`` to ``vector``, with weights of a name each, in order."""
    first, last = (list(weights.values())[at] for at in (0, -1))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["N", first.shape[1], 2, 2])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["N", last.shape[0], 2, 2])],
        [numpy_helper.from_array(weight[:, :, None, None], f"{name}.weight") for name, weight in weights.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


@pytest.mark.parametrize(("per_channel", "scales"), [(True, [1 / 127, 100 / 127]), (False, [100 / 127, 100 / 127])])
def test_weights_and_activations_round_as_the_scheme_says(per_channel: bool, scales: list[float]) -> None:
    weight = np.array([[1.0, 0.3], [-100.0, 20.0]], dtype=np.float32)
    tensor = np.array([[[[-1.0, 0.0], [0.37, 2.0]], [[1.5, -0.2], [4.1, 0.01]]]], dtype=np.float32)
    weight, tensor = np.pad(weight, [(0, 0), (0, 30)]), np.pad(tensor, [(0, 0), (0, 30), (0, 0), (0, 0)])  # 32 terms
    network = convolution(weight)
    scheme = replace(PER_CHANNEL, per_channel=per_channel)
    quantized = to_int8(network, scheme, calibrate(network, "minmax", [tensor]))

    scale = np.array(scales)[:, None]
    weight_8 = np.clip(np.rint(weight / scale), -127, 127) * scale
    exact = np.einsum("oi,nihw->nohw", weight, tensor)
    inner = np.einsum("oi,nihw->nohw", weight_8, as_uint8(tensor, -1.0, 4.1))
    expected = as_uint8(inner, float(exact.min()), float(exact.max()))
    np.testing.assert_allclose(outputs_of(quantized, tensor)[0], expected, rtol=1e-5, atol=1e-5)


def as_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Round to the 256 levels that lie evenly in a range, of which one is zero."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step


def test_ranges_are_those_of_the_activations(traced: Traced, inputs: list[np.ndarray]) -> None:
    network = traced.graphs.network
    found = calibrate(network, "minmax", inputs)
    convolutions = [node.output[0] for node in network.graph.node if node.op_type == "Conv"]
    for name in (convolutions[0], convolutions[-1]):
        values = np.concatenate([outputs_of(network, tensor, name)[0] for tensor in inputs])
        np.testing.assert_allclose(np.ravel(found[name].range_value), [values.min(), values.max()], rtol=1e-5)


def test_a_temporary_folder_without_room_is_one_line(
    traced: Traced, inputs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(OptionError, match=r"cannot hold .* \(No space left on device\)\. Set TMPDIR"):
        calibrate(traced.graphs.network, "minmax", inputs)


def test_percentiles_leave_out_what_is_extreme(inputs: list[np.ndarray]) -> None:
    network = convolution(np.eye(3, dtype=np.float32))
    values = [tensor[:, :, :2, :2] for tensor in inputs] * 100
    outlier = np.full_like(values[0], 0.0)
    outlier[0, 0, 0, 0] = 1000.0
    clipped, whole = (
        np.ravel(calibrate(network, ranges, [*values, outlier])["tensor"].range_value)
        for ranges in ("percentile", "minmax")
    )
    everything = np.concatenate([value.ravel() for value in values])
    np.testing.assert_allclose(whole, [everything.min(), 1000], rtol=1e-6)
    assert clipped[1] < 10
    assert clipped[0] == pytest.approx(everything.min(), abs=1.5)


@pytest.mark.parametrize("scheme", schemes_for(convolution(np.eye(3, dtype=np.float32)), "arm64"))
def test_every_static_scheme_stays_near(traced: Traced, inputs: list[np.ndarray], scheme: Scheme) -> None:
    network = traced.graphs.network
    quantized = to_int8(network, scheme, calibrate(network, scheme.ranges, inputs))
    onnx.checker.check_model(quantized, full_check=True)
    (expected,), (found,) = (outputs_of(net, np.concatenate(inputs)) for net in (network, quantized))
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.min() > 0.98
    assert cosine.max() < 1 - 1e-7
    activations = {numpy_helper.to_array(tensor).dtype.name for tensor in zero_points(quantized, activations=True)}
    assert activations == {scheme.activations}
    # Where ranges need not be symmetric, a ReLU is the lower end of what precedes it, if that is quantised; the first
    # layer is not.
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("Relu") == (12 if scheme.activations == "int8" else 1 if scheme.additions else 5)


def test_a_candidate_does_not_depend_on_those_before_it(traced: Traced, inputs: list[np.ndarray]) -> None:
    network = traced.graphs.network
    ranges = calibrate(network, "minmax", inputs[:4])
    before = {name: np.ravel(ranges[name].range_value).tolist() for name in ranges}
    left = [node.name for node in network.graph.node if node.op_type == "Relu"]
    first = to_int8(network, PER_CHANNEL, ranges, left).SerializeToString()
    to_int8(network, PER_CHANNEL, ranges)
    assert {name: np.ravel(ranges[name].range_value).tolist() for name in ranges} == before
    assert to_int8(network, PER_CHANNEL, ranges, left).SerializeToString() == first


def zero_points(network: ModelProto, activations: bool) -> list[TensorProto]:
    names = {node.input[2] for node in network.graph.node if node.op_type == "QuantizeLinear"}
    return [tensor for tensor in network.graph.initializer if (tensor.name in names) is activations]


def test_seven_bits_for_weights_where_sums_saturate(traced: Traced, inputs: list[np.ndarray]) -> None:
    network = traced.graphs.network
    (first,) = schemes_for(network, "x86", vnni=False)[:1]
    assert first.reduce_range
    assert first.name == "static u8s8 per-channel minmax 7-bit weights"
    quantized = to_int8(network, first, calibrate(network, "minmax", inputs[:2]))
    largest = [
        int(np.abs(numpy_helper.to_array(tensor)).max())
        for tensor in quantized.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(largest) == 15  # the first of 16 layers stays in float
    assert max(largest) <= 64


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_large_products_are_exact_on_every_processor(sign: int, activations: str) -> None:
    # Two products of 127 and 255 are 64770, more than 16 bits hold.
    weight = np.full((8, 64), sign, dtype=np.float32)
    tensor = np.ones((1, 64, 2, 2), dtype=np.float32)
    tensor[0, :32] = 0.5
    network = convolution(weight)
    scheme = replace(PER_CHANNEL, activations=activations)
    quantized = to_int8(network, scheme, calibrate(network, "minmax", [tensor]))
    (found,) = session_of(quantized, threads=1).run(None, {"tensor": tensor})
    np.testing.assert_allclose(found, sign * 48.0, rtol=0.01)


@pytest.mark.parametrize(("terms", "stays"), [(31, True), (32, False)])
def test_a_first_layer_of_few_products_stays_in_float(terms: int, stays: bool) -> None:
    network = convolution(np.linspace(-1, 1, 2 * terms, dtype=np.float32).reshape(2, terms))
    assert shallow_stem(network) == (["conv"] if stays else [])
    tensor = np.random.default_rng(0).normal(size=(1, terms, 2, 2)).astype(np.float32)
    quantized = to_int8(network, PER_CHANNEL, calibrate(network, "minmax", [tensor]))
    (exact,), (found,) = outputs_of(network, tensor), outputs_of(quantized, tensor)
    assert np.array_equal(exact, found) is stays
    np.testing.assert_allclose(found, exact, atol=0.2)


def test_nodes_left_in_float(traced: Traced, inputs: list[np.ndarray]) -> None:
    network = traced.graphs.network
    ranges = calibrate(network, "minmax", inputs)
    blocks = blocks_of(network)
    block = next(iter(blocks))
    quantized = to_int8(network, PER_CHANNEL, ranges, blocks[block])
    weights = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    assert weights[f"{block}.weight"] == TensorProto.FLOAT
    assert sum(kind == TensorProto.INT8 for name, kind in weights.items() if "weight_quantized" in name) >= 14
    everything = [node.name for node in network.graph.node]
    untouched = to_int8(network, PER_CHANNEL, ranges, everything)
    np.testing.assert_array_equal(outputs_of(untouched, inputs[0])[0], outputs_of(network, inputs[0])[0])


@pytest.mark.parametrize(("groups", "pooled"), [(1, False), (1, True), (32, False)])
def test_float_between_int8_is_computed_in_float(groups: int, pooled: bool) -> None:
    # Left to itself, onnxruntime rounds these weights to int8 with one scale, here 1/127, and finds 0.
    inputs = 64 // groups
    weight = np.full((64, inputs), 0.003, dtype=np.float32)
    weight[:, :2] = 1, -1 if groups == 1 else -0.997
    same = np.eye(64, dtype=np.float32)
    nodes = [helper.make_node("Conv", ["tensor", "first.weight"], ["first"], "first")]
    if pooled:
        nodes.append(helper.make_node("MaxPool", ["first"], ["pooled"], "pool", kernel_shape=[1, 1]))
    middle = ["pooled" if pooled else "first", "between.weight"]
    nodes.append(helper.make_node("Conv", middle, ["between"], "between", group=groups))
    nodes.append(helper.make_node("Conv", ["between", "last.weight"], ["vector"], "last"))
    network = convolutions(nodes, first=same, between=weight, last=same)
    tensor = np.ones((1, 64, 2, 2), dtype=np.float32)
    for scheme in (PER_CHANNEL, replace(PER_CHANNEL, activations="int8", per_channel=False)):
        quantized = to_int8(network, scheme, calibrate(network, "minmax", [tensor]), ["between"])
        onnx.checker.check_model(quantized, full_check=True)
        (found,) = session_of(quantized, threads=1).run(None, {"tensor": tensor})
        np.testing.assert_allclose(found, 62 * 0.003 if groups == 1 else 0.003, rtol=0.02)


def test_any_block_in_float_is_computed_in_float(inputs: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    network = trace_model(create_model("resnet10t", 8, image_size=32).eval()).graphs.network  # with pooling in its stem
    ranges = calibrate(network, "minmax", inputs)
    optimized = onnxruntime.SessionOptions()
    optimized.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    optimized.add_session_config_entry("session.x64quantprecision", "1")
    for block in blocks_of(network).values():
        quantized = to_int8(network, replace(PER_CHANNEL, per_channel=False), ranges, block)
        session = onnxruntime.InferenceSession(quantized.SerializeToString(), optimized)
        found = session.run(None, {"tensor": inputs[0]})[0]
        np.testing.assert_allclose(found, outputs_of(quantized, inputs[0])[0], rtol=0, atol=1e-5)


def test_dynamic_int8_of_a_transformer(transformer: tuple[nn.Module, ModelProto], inputs: list[np.ndarray]) -> None:
    network = transformer[1]
    quantized = to_int8(network, Scheme("dynamic", reduce_range=not has_vnni()), None)
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("Conv") == 1
    assert kinds.count("MatMulInteger") > 10
    (expected,), (found,) = (outputs_of(net, inputs[0]) for net in (network, quantized))
    assert np.sum(expected * found) / np.linalg.norm(expected) / np.linalg.norm(found) > 0.995


def test_float16(traced: Traced, inputs: list[np.ndarray]) -> None:
    network = traced.graphs.network
    halved = to_fp16(network)
    onnx.checker.check_model(halved, full_check=True)
    (expected,), (found,) = (outputs_of(net, inputs[0]) for net in (network, halved))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
    assert not np.allclose(found, expected, rtol=1e-6)
    assert halved.ByteSize() < 0.6 * network.ByteSize()
    assert fits_float16(network)
    assert fits_float16(convolution(np.full((1, 1), -65504.0, np.float32)))
    assert not fits_float16(convolution(np.full((1, 1), -65505.0, np.float32)))
