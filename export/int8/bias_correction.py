"""Bias correction (arXiv:1906.04721, 4.2): subtract from each bias the shift that rounding causes in a channel's mean.

Weights rounded up more often than down, and clipped activations, shift the mean of a channel. Depthwise convolutions
have few weights per channel, so this does not average out, and the shifts of the layers add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from zoo.sessions import cpu_session

_MEAN = "{}_mean_of_channels"
_LARGEST = 2**31 - 1


def corrected(network: ModelProto, quantized: ModelProto, tensors: Callable[[], Iterable[np.ndarray]]) -> ModelProto:
    """Return a quantised network whose layers have the float network's output mean in every channel.

    Layers are corrected one by one in the graph's order, each after its predecessors: measured all at once, an early
    layer's shift would be corrected again in later ones. Layers without a bias, and layers in float, stay unchanged.
    Memory is that of the network on one batch; of activations only sums are kept.

    Args:
        network: the float network.
        quantized: the same with QuantizeLinear and DequantizeLinear, and the same node names; not modified.
        tensors: returns the inputs to average over, float32 ``(1, 3, h, w)`` each; called once per layer and once more.
    """
    fixed = ModelProto.FromString(quantized.SerializeToString())
    biases = _biases(fixed)
    layers = [node for node in network.graph.node if node.name in biases]
    if not layers:
        return fixed
    wanted = _means(network, layers, tensors())  # the float network does not change, so one pass gives all means
    for node in [node for node in fixed.graph.node if node.name in wanted]:
        found = _means(fixed, [node], tensors())[node.name]
        values, scale = biases[node.name]
        moved = numpy_helper.to_array(values) + np.rint((wanted[node.name] - found) / scale)
        kept = np.clip(moved, -_LARGEST, _LARGEST).astype(np.int32)
        values.CopyFrom(numpy_helper.from_array(kept, values.name))
    return fixed


def _biases(quantized: ModelProto) -> dict[str, tuple[TensorProto, np.ndarray]]:
    """Return the stored int32 bias and its scale for each convolution or Gemm that has one, by node name."""
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in quantized.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in makers:
            continue
        values, scale = makers[node.input[2]].input[:2]
        if values in stored and stored[values].data_type == TensorProto.INT32:
            found[node.name] = stored[values], numpy_helper.to_array(stored[scale]).astype(np.float64)
    return found


def _means(network: ModelProto, nodes: list[NodeProto], tensors: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean of each output channel of some nodes, float64 ``(C,)``, by node name."""
    part = _up_to(network, {node.output[0] for node in nodes})
    for node in nodes:
        name, axes = _MEAN.format(node.name), f"{node.name}_axes"
        over = np.array([0, 2, 3] if node.op_type == "Conv" else [0])
        part.graph.initializer.append(numpy_helper.from_array(over, axes))
        part.graph.node.append(helper.make_node("ReduceMean", [node.output[0], axes], [name], keepdims=0))
        part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = cpu_session(part.SerializeToString(), threads=None)
    sums: list[np.ndarray] = []
    count = 0
    for tensor in tensors:
        given = [np.asarray(mean, dtype=np.float64) for mean in session.run(None, {"tensor": tensor})]
        sums = given if not count else [total + mean for total, mean in zip(sums, given, strict=True)]
        count += 1
    return {node.name: total / count for node, total in zip(nodes, sums, strict=True)}


def _up_to(network: ModelProto, outputs: set[str]) -> ModelProto:
    """Return the part of a network that computes these tensors, with no outputs declared."""
    needed, kept = set(outputs), []
    for node in reversed(network.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    stored = [tensor for tensor in network.graph.initializer if tensor.name in needed]
    graph = GraphProto(name="part", node=kept[::-1], input=network.graph.input, initializer=stored)
    return ModelProto(ir_version=network.ir_version, opset_import=network.opset_import, graph=graph)
