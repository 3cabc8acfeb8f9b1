"""Cross-layer equalisation (arXiv:1906.04721, 4.1): channels between two convolutions are scaled to use int8 alike.

What a convolution multiplies a channel by, the next can divide by, where nothing between them but a ReLU sees it. In
float that changes nothing. In int8 a tensor, or a layer's weights, have one scale, in which a channel of small values
has few levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

_PASSES = 20  # over all pairs; factors have settled by then
_SETTLED = 1e-3  # of the logarithm of a factor
_LARGEST = 1e3  # factor of one pass: a channel that is nearly dead is not blown up


@dataclass(frozen=True)
class Pair:
    """Two convolutions with nothing but an activation between them.

    Attributes:
        first: makes the channels.
        activation: ReLU or ReLU6; None for none.
        second: the only one that takes them.
    """

    first: NodeProto
    activation: NodeProto | None
    second: NodeProto


def equalized(network: ModelProto) -> ModelProto:
    """Return a network whose channels between two convolutions have weights of equal size on both sides.

    A factor is ``sqrt(r1 / r2)`` of the greatest absolute weights that make a channel, r1, and that take it, r2: the
    first is divided by it, with its bias, and the second multiplied. Pairs share convolutions, so all are gone through
    until nothing changes.

    A ReLU lets a factor through, a ReLU6 does not: between convolutions of a pair it becomes a ReLU. So a network of
    ReLUs computes what it did, to rounding; one of ReLU6 computes another function wherever an activation was above 6,
    and what it retrieves has to judge it.

    Args:
        network: the graph, in fp32, BatchNorms folded; left as it is.
    """
    fixed = ModelProto.FromString(network.SerializeToString())
    pairs = pairs_of(fixed)
    tensors = {tensor.name: tensor for tensor in fixed.graph.initializer}
    named = {name for pair in pairs for node in (pair.first, pair.second) for name in node.input[1:]}
    weights = {name: numpy_helper.to_array(tensors[name]).astype(np.float64) for name in sorted(named)}
    for _ in range(_PASSES if pairs else 0):
        if max(_equalize(pair, weights) for pair in pairs) < _SETTLED:
            break
    for name, array in weights.items():
        tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    for pair in pairs:
        if pair.activation is not None and pair.activation.op_type == "Clip":
            pair.activation.op_type = "Relu"
            del pair.activation.input[1:]
    return fixed


def pairs_of(network: ModelProto) -> list[Pair]:
    """Return the pairs of convolutions of a graph, in its order.

    Both have weights of their own, stored in the graph. A Clip counts as a ReLU6 where it begins at 0.
    """
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    takers: dict[str, list[NodeProto]] = {output.name: [] for output in network.graph.output}
    uses: dict[str, int] = {}
    for node in network.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
            uses[name] = uses.get(name, 0) + 1
    seen_outside = {output.name for output in network.graph.output}

    def only_taker(name: str) -> NodeProto | None:
        return takers[name][0] if name not in seen_outside and len(takers.get(name, [])) == 1 else None

    def scalable(node: NodeProto | None, data: str | None = None) -> bool:
        return (
            node is not None
            and node.op_type == "Conv"
            and all(name in stored and uses[name] == 1 for name in node.input[1:])
            and data in (None, node.input[0])
        )

    pairs = []
    for first in network.graph.node:
        if not scalable(first):
            continue
        output, activation = first.output[0], None
        follower = only_taker(output)
        if follower is not None and _is_relu(follower, stored):
            activation, output = follower, follower.output[0]
            follower = only_taker(output)
        if follower is not None and scalable(follower, output):
            pairs.append(Pair(first, activation, follower))
    return pairs


def _is_relu(node: NodeProto, stored: dict[str, object]) -> bool:
    if node.op_type == "Relu":
        return True
    low = stored.get(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
    return low is not None and float(numpy_helper.to_array(low)) == 0  # type: ignore[arg-type]


def _equalize(pair: Pair, weights: dict[str, np.ndarray]) -> float:
    """Scale the channels between a pair, in place; return the largest change, as a logarithm."""
    makes, takes = weights[pair.first.input[1]], weights[pair.second.input[1]]
    grouped = _by_group(takes, pair.second)
    made = np.abs(makes).max(axis=(1, 2, 3))
    taken = np.abs(grouped).max(axis=(1, 3, 4)).ravel()
    alive = (made > 0) & (taken > 0)
    factors = np.ones_like(made)
    factors[alive] = np.clip(np.sqrt(made[alive] / taken[alive]), 1 / _LARGEST, _LARGEST)
    makes /= factors[:, None, None, None]
    for bias in pair.first.input[2:]:
        weights[bias] /= factors
    grouped *= factors.reshape(len(grouped), 1, -1, 1, 1)  # a view of takes
    return float(np.abs(np.log(factors)).max())


def _by_group(weight: np.ndarray, node: NodeProto) -> np.ndarray:
    """Return a convolution's weight as a view ``(groups, outputs, inputs, height, width)``, counts of one group."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return weight.reshape(groups, -1, *weight.shape[1:])
