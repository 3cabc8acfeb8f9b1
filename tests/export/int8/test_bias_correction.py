"""Bias correction removes the shift that rounding causes in the mean of a channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import nn

from export.int8.bias_correction import corrected
from export.int8.judge import session_of
from export.int8.quantization import calibrate, to_int8
from export.int8.schemes import Scheme
from export.onnx.tracing import Traced, trace_model
from zoo import create_model

PER_TENSOR = Scheme("static", "uint8", False, "minmax")
WIDE = 32  # inputs, of which a layer must have as many not to stay in float


def layers(*weights: np.ndarray) -> ModelProto:
    """Return a network of 1×1 convolutions with biases of 0 from ``tensor`` to ``vector``."""
    names = ["tensor", *(f"between{i}" for i in range(len(weights) - 1)), "vector"]
    nodes, stored = [], []
    for place, weight in enumerate(weights):
        nodes.append(
            helper.make_node("Conv", [names[place], f"w{place}", f"b{place}"], [names[place + 1]], f"conv{place}")
        )
        stored.append(numpy_helper.from_array(weight.astype(np.float32)[:, :, None, None], f"w{place}"))
        stored.append(numpy_helper.from_array(np.zeros(len(weight), np.float32), f"b{place}"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", 1, ["N", WIDE, 1, 1])],
        [helper.make_tensor_value_info("vector", 1, ["N", len(weights[-1]), 1, 1])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def bias_of(quantized: ModelProto, name: str) -> np.ndarray:
    """Return a bias as the quantised network adds it."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    (found,) = [n for n in quantized.graph.node if n.op_type == "DequantizeLinear" and n.input[0].startswith(name)]
    return np.asarray(tensors[found.input[0]] * tensors[found.input[1]])


def test_the_shift_of_rounded_weights_is_taken_off_by_hand() -> None:
    # One scale, 127 / 127 = 1: 0.4 becomes 0 and 0.7 becomes 1. On inputs of mean 1/2 in 31 channels the sums lose
    # 31 * 0.4 / 2 = 6.2, and win 31 * 0.3 / 2 = 4.65.
    weight = np.full((2, WIDE), 0.4)
    weight[1] = 0.7
    weight[:, 0] = 127
    tensors = [np.full((1, WIDE, 1, 1), value, np.float32) for value in (0.0, 1.0)]
    network = layers(weight)
    quantized = to_int8(network, PER_TENSOR, calibrate(network, "minmax", tensors))
    fixed = corrected(network, quantized, lambda: iter(tensors))
    np.testing.assert_allclose(bias_of(quantized, "b0"), 0)
    np.testing.assert_allclose(bias_of(fixed, "b0"), [6.2, -4.65], atol=0.005)  # the scale of the bias is 1/255


def test_layers_behind_a_corrected_one_are_not_corrected_twice() -> None:
    # The second layer adds up two channels without error of its own: once the first is right, so is the second.
    weight = np.full((2, WIDE), 0.4)
    weight[:, 0] = 127
    exact = np.zeros((1, 2))
    exact[:] = 1
    network = layers(np.tile(weight, (WIDE // 2, 1)), np.tile(exact, (1, WIDE // 2)))
    tensors = [np.full((1, WIDE, 1, 1), value, np.float32) for value in (0.0, 0.2, 0.4, 1.0)]
    quantized = to_int8(network, PER_TENSOR, calibrate(network, "minmax", tensors))
    fixed = corrected(network, quantized, lambda: iter(tensors))
    # The mean input is 0.4: 31 channels lose 31 * 0.4 * 0.4 = 4.96. Sums reach 139.4, in steps of 0.55.
    np.testing.assert_allclose(bias_of(fixed, "b0"), 4.96, atol=0.01)
    assert abs(bias_of(fixed, "b1")[0]) < WIDE * 0.3  # rounding of the sums; correcting twice would take off 159
    (expected, before, after) = (mean_of(network, tensors), mean_of(quantized, tensors), mean_of(fixed, tensors))
    assert abs(before - expected) > 100
    assert abs(after - expected) < 10


def mean_of(network: ModelProto, tensors: list[np.ndarray]) -> float:
    session = session_of(network, threads=1)
    return float(np.mean([session.run(None, {"tensor": tensor})[0] for tensor in tensors]))


def test_means_of_a_network_come_back() -> None:
    torch.manual_seed(0)
    model = create_model("test_resnet", 8, image_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # else the convolutions have no biases
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
    network = trace_model(model.eval()).graphs.network
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal((1, 3, 32, 32), dtype=np.float32) for _ in range(8)]
    scheme = Scheme("static", "uint8", False, "percentile")
    quantized = to_int8(network, scheme, calibrate(network, "percentile", inputs))
    calls = 0

    def given() -> Iterator[np.ndarray]:
        nonlocal calls
        calls += 1
        return iter(inputs)

    fixed = corrected(network, quantized, given)
    assert calls > 3  # once a layer that has a bias, and once for the float network
    layers_of = {node.name: node.output[0] for node in network.graph.node if node.op_type == "Conv"}
    first, *others = layers_of
    wanted, before, after = (means_of(each, layers_of, inputs) for each in (network, quantized, fixed))
    np.testing.assert_array_equal(after[first], before[first])  # in float
    shifts = {name: np.abs(before[name] - wanted[name]).max() for name in others}
    left = {name: np.abs(after[name] - wanted[name]).max() for name in others}
    assert max(shifts.values()) > 0.01
    assert max(left.values()) < 0.001  # a bias has 32 bits
    kept = {tensor.name: tensor for tensor in quantized.graph.initializer}
    changed = {tensor.name for tensor in fixed.graph.initializer if tensor != kept[tensor.name]}
    assert changed and all("bias" in name for name in changed)


def means_of(network: ModelProto, names: dict[str, str], inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean of each channel that nodes of these names give."""
    shown = ModelProto.FromString(network.SerializeToString())
    outputs = {node.name: node.output[0] for node in shown.graph.node if node.name in names}
    shown.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in outputs.values())
    found = session_of(shown, threads=1).run(list(outputs.values()), {"tensor": np.concatenate(inputs)})
    return {name: values.mean((0, 2, 3)) for name, values in zip(outputs, found, strict=True)}


def test_nothing_to_correct_is_nothing_changed(traced: Traced) -> None:
    network = traced.graphs.network  # fresh BatchNorms, and so no biases
    quantized = to_int8(network, PER_TENSOR, calibrate(network, "minmax", [np.ones((1, 3, 32, 32), np.float32)]))
    assert corrected(network, quantized, lambda: iter([])) == quantized
