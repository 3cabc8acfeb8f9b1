"""An equalised network computes the same, with weights of equal size on both sides of a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper

from export.int8.equalization import equalized, pairs_of
from export.int8.judge import session_of
from export.onnx.tracing import Traced, smooth_images


def chain(nodes: Sequence[tuple[str, list[str], str]], groups: dict[str, int], **arrays: np.ndarray) -> ModelProto:
    """Return a graph of named nodes: operator, inputs, output; a group for those of more than one."""
    made = [
        helper.make_node(kind, inputs, [output], output, **({"group": groups[output]} if output in groups else {}))
        for kind, inputs, output in nodes
    ]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("tensor", onnx.TensorProto.FLOAT, ["N", 2, 3, 3])],
        [helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def stored(network: ModelProto, name: str) -> np.ndarray:
    return np.asarray(next(numpy_helper.to_array(t) for t in network.graph.initializer if t.name == name))


def run(network: ModelProto, tensor: np.ndarray) -> np.ndarray:
    return np.asarray(session_of(network, threads=1).run(None, {"tensor": tensor})[0])


def test_factors_are_the_papers() -> None:
    # Channel 0 is made by weights of 8 at most and taken by 2: sqrt(8 / 2) = 2. Channel 1: sqrt(1 / 4) = 1/2.
    first = np.array([[8.0, -1], [0.5, -1]])[:, :, None, None]
    second = np.array([[-2.0, 4], [1, 3]])[:, :, None, None]
    nodes = [("Conv", ["tensor", "w1", "b1"], "a"), ("Relu", ["a"], "r"), ("Conv", ["r", "w2"], "vector")]
    network = chain(nodes, {}, w1=first, b1=column(6, -3), w2=second)
    even = equalized(network)
    np.testing.assert_allclose(stored(even, "w1")[:, :, 0, 0], [[4, -0.5], [1, -2]])
    np.testing.assert_allclose(stored(even, "b1"), [3, -6])
    np.testing.assert_allclose(stored(even, "w2")[:, :, 0, 0], [[-4, 2], [2, 1.5]])
    np.testing.assert_array_equal(stored(network, "w1"), first)  # what was given stays
    tensor = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(run(even, tensor), run(network, tensor), rtol=1e-5, atol=1e-5)


def test_a_depthwise_convolution_is_scaled_channel_by_channel_on_both_its_sides() -> None:
    generator = np.random.default_rng(1)
    uneven = np.array([100.0, 1, 0.01, 3])
    arrays = {
        "w1": generator.normal(size=(4, 2, 1, 1)) * uneven[:, None, None, None],
        "b1": generator.normal(size=4),
        "w2": generator.normal(size=(4, 1, 3, 3)) * uneven[::-1, None, None, None],
        "b2": generator.normal(size=4),
        "w3": generator.normal(size=(3, 4, 1, 1)),
    }
    nodes = [
        ("Conv", ["tensor", "w1", "b1"], "a"),
        ("Relu", ["a"], "r"),
        ("Conv", ["r", "w2", "b2"], "d"),
        ("Relu", ["d"], "s"),
        ("Conv", ["s", "w3"], "vector"),
    ]
    network = chain(nodes, {"d": 4}, **arrays)
    assert len(pairs_of(network)) == 2
    even = equalized(network)
    made, middle, taken = (np.abs(stored(even, name)) for name in ("w1", "w2", "w3"))
    np.testing.assert_allclose(made.max((1, 2, 3)), middle.max((1, 2, 3)), rtol=0.01)
    np.testing.assert_allclose(middle.max((1, 2, 3)), taken.max((0, 2, 3)), rtol=0.01)
    tensor = generator.normal(size=(4, 2, 3, 3)).astype(np.float32)
    expected = run(network, tensor)
    np.testing.assert_allclose(run(even, tensor), expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_not_scalable_stays() -> None:
    square = np.ones((2, 2, 1, 1))
    plain = [("Conv", ["tensor", "w1", "b1"], "a"), ("Relu", ["a"], "r"), ("Conv", ["r", "w2"], "vector")]
    sigmoid = [plain[0], ("Sigmoid", ["a"], "r"), plain[2]]
    taken_twice = [*plain[:2], ("Conv", ["r", "w2"], "c"), ("Add", ["c", "r"], "vector")]
    seen = [*plain[:2], ("Conv", ["r", "w2"], "c"), ("Add", ["c", "a"], "vector")]
    shared = [plain[0], plain[1], ("Conv", ["r", "w1", "b1"], "vector")]
    six = [plain[0], ("Clip", ["a", "minus", "six"], "r"), plain[2]]
    for nodes in (sigmoid, taken_twice, seen, shared, six):
        network = chain(nodes, {}, w1=square, b1=column(1, 2), w2=square, minus=np.array(-6.0), six=np.array(6.0))
        assert pairs_of(network) == []
        assert equalized(network) == network
    assert len(pairs_of(chain(plain, {}, w1=square, b1=column(1, 2), w2=square))) == 1


def test_a_channel_that_is_always_zero_stays() -> None:
    first, second = np.array([[0.0, 0], [4, 1]]), np.array([[5.0, 1], [5, 1]])
    nodes = [("Conv", ["tensor", "w1", "b1"], "a"), ("Conv", ["a", "w2"], "vector")]
    network = chain(nodes, {}, w1=first[:, :, None, None], b1=column(7, 1), w2=second[:, :, None, None])
    even = equalized(network)
    np.testing.assert_allclose(stored(even, "b1"), [7, 0.5])
    np.testing.assert_allclose(stored(even, "w2")[:, 0, 0, 0], [5, 5])


def test_relu6_becomes_relu_between_convolutions_only() -> None:
    square = np.array([[4.0, 0], [0, 1]])[:, :, None, None]
    nodes = [
        ("Conv", ["tensor", "w1"], "a"),
        ("Clip", ["a", "zero", "six"], "r"),
        ("Conv", ["r", "w2"], "c"),
        ("Clip", ["c", "zero", "six"], "vector"),
    ]
    network = chain(nodes, {}, w1=square, w2=np.ones((2, 2, 1, 1)), zero=np.array(0.0), six=np.array(6.0))
    even = equalized(network)
    assert [node.op_type for node in even.graph.node] == ["Conv", "Relu", "Conv", "Clip"]
    small = np.full((1, 2, 3, 3), 1.0, np.float32)  # 4 and 1, below 6
    np.testing.assert_allclose(run(even, small), run(network, small), rtol=1e-6)


def test_a_network_of_relus_computes_what_it_did(traced: Traced) -> None:
    network = traced.graphs.network
    assert len(pairs_of(network)) >= 6
    even = equalized(network)
    assert even != network
    assert [node.op_type for node in even.graph.node] == [node.op_type for node in network.graph.node]
    tensor = traced.whole.preprocess(torch.from_numpy(np.stack(smooth_images()))).numpy()
    expected = run(network, tensor)
    np.testing.assert_allclose(run(even, tensor), expected, atol=1e-4 * np.abs(expected).max())
