"""Cross-layer equalisation (arXiv:1906.04721, 4.1): scale the channels between two convolutions to use int8 equally.

A factor applied to a channel by one convolution can be undone by the next if only a ReLU lies between them. In float
this changes nothing. In int8 a tensor, or a layer's weights, share one scale, which leaves few levels to a channel of
small values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

_PASSES = 20  # passes over all pairs; factors have converged by then
_SETTLED = 1e-3  # converged: largest change of the logarithm of a factor
_LARGEST = 1e3  # largest factor of one pass, so that a nearly dead channel is not blown up


@dataclass(frozen=True)
class Pair:
    """Two convolutions with at most an activation between them.

    Attributes:
        first: produces the channels.
        activation: ReLU or ReLU6; None for none.
        second: the only node that consumes them.
    """

    first: NodeProto
    activation: NodeProto | None
    second: NodeProto


def equalized(network: ModelProto) -> ModelProto:
    """Return a network whose channels between two convolutions have weights of equal size on both sides.

    A channel's factor is ``sqrt(r1 / r2)``, with r1 the largest absolute weight that produces the channel and r2 the
    largest that consumes it: the first convolution and its bias are divided by it, the second is multiplied. Pairs
    share convolutions, so all pairs are visited until nothing changes.

    A factor passes through a ReLU, but not through a ReLU6, which therefore becomes a ReLU between the convolutions of
    a pair. So a network of ReLUs computes the same up to rounding. One of ReLU6 computes a different function wherever
    an activation was above 6, so its recall must be measured.

    Args:
        network: the graph, in fp32, BatchNorms folded; not modified.
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

    Their weights are stored in the graph and not shared. A Clip whose minimum is 0 counts as a ReLU6.
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
    """Scale the channels between a pair in place, and return the largest change, as a logarithm."""
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
    """Return a view of a convolution's weight: ``(groups, outputs, inputs, height, width)``, channels per group."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return weight.reshape(groups, -1, *weight.shape[1:])
