"""Quantisation schemes, which of them fit a network and its target, and the blocks of a network."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from export.int8.equalization import pairs_of
from export.onnx.tracing import MODULE_OF_NODE
from zoo.errors import require_known
from zoo.models.int8_speed import FEWEST_TERMS

TARGETS = ("x86", "x86-vnni", "arm64", "web")
"""What int8 will run on; "x86" has VNNI if this processor does."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators that int8 makes smaller and faster. All others but ``ABSORBED`` stay in float."""
ABSORBED = ("Relu", "Clip")  # the quantiser folds them into the range of the tensor before them: no node is left
ADDITIONS = ("Add",)
MINMAX, _CLIPPED = "minmax", "percentile"
_ATTENTION_SHARE = 0.5  # share of the weights in MatMul from which a network counts as a transformer


@dataclass(frozen=True)
class Scheme:
    """How a network is quantised.

    Attributes:
        kind: "static" (QDQ: activation ranges measured beforehand on images) or "dynamic" (measured in each run).
        activations: "uint8", asymmetric, or "int8", symmetric; one scale per tensor.
        per_channel: whether each output channel of a weight has its own scale; weights are symmetric int8.
        ranges: for kind static, "minmax" or "percentile" (the most extreme 0.01 % is clipped); else "".
        additions: whether residual additions are quantised too.
        reduce_range: whether weights have 7 bits, for full speed on x86 without VNNI: there, sums of 8-bit products
            saturate or take longer, see ``zoo.sessions``.
        equalized: whether channels are equalised beforehand; see ``export.int8.equalization``.
        bias_corrected: whether the means of channels are corrected afterwards; see ``export.int8.bias_correction``.
    """

    kind: str
    activations: str = "uint8"
    per_channel: bool = True
    ranges: str = ""
    additions: bool = False
    reduce_range: bool = False
    equalized: bool = False
    bias_corrected: bool = False

    @property
    def name(self) -> str:
        """Name for tables, such as "static u8s8 per-channel minmax"."""
        activations = "u8" if self.activations == "uint8" else "s8"
        words = [self.kind, f"{activations}s8", "per-channel" if self.per_channel else "per-tensor", self.ranges]
        words += ["with additions" if self.additions else "", "7-bit weights" if self.reduce_range else ""]
        words += ["equalised" if self.equalized else "", "bias-corrected" if self.bias_corrected else ""]
        return " ".join(word for word in words if word)


def schemes_for(network: ModelProto, target: str, vnni: bool = True) -> list[Scheme]:
    """Return the schemes that fit a network and a target, the usually best one first.

    Convolutional networks get static schemes. Transformers get dynamic schemes first, because their ranges change from
    image to image. Mixtures get both. Activations are uint8 on x86 and in browsers, as their kernels require; on arm64
    also int8.

    Args:
        network: the graph.
        target: one of ``TARGETS``.
        vnni: whether this processor has VNNI.

    Raises:
        OptionError: unknown target.
    """
    require_known("target", target, TARGETS)
    reduced = weight_bits(target, vnni) < 8
    share = matmul_share(network)
    transformer = share >= _ATTENTION_SHARE
    schemes = []
    for activations in ("int8", "uint8") if target == "arm64" else ("uint8",):
        schemes += [
            Scheme("static", activations, per_channel, ranges, reduce_range=reduced and activations == "uint8")
            for ranges in ((MINMAX,) if transformer else (MINMAX, _CLIPPED))
            for per_channel in (True, False)
        ]
    if not transformer:
        schemes.append(replace(schemes[0], additions=True))
    if share == 0:
        return schemes
    dynamic = [Scheme("dynamic", "uint8", per_channel, reduce_range=reduced) for per_channel in (True, False)]
    return [*dynamic, *schemes] if transformer else [*schemes, *dynamic]


def weight_bits(target: str, vnni: bool) -> int:
    """Return the bits of weights that meet uint8 activations; see ``Scheme.reduce_range``.

    Args:
        target: one of ``TARGETS``.
        vnni: whether this processor has VNNI.
    """
    return 7 if target == "x86" and not vnni else 8


def improved(schemes: list[Scheme], network: ModelProto) -> list[Scheme]:
    """Return variants to try if a network's schemes lose recall: equalised, bias-corrected, and both.

    Only the first static scheme gets variants, because each takes another calibration or a run per layer. Equalised
    variants need convolutions to equalise.

    Args:
        schemes: from :func:`schemes_for`.
        network: the graph.
    """
    static = next((scheme for scheme in schemes if scheme.kind == "static"), None)
    if static is None:
        return []
    found = [replace(static, bias_corrected=True)]
    if pairs_of(network):
        even = replace(static, equalized=True)
        found += [even, replace(even, bias_corrected=True)]
    return found


def matmul_share(network: ModelProto) -> float:
    """Return the share of MatMul in the weights of Conv and MatMul nodes, in [0, 1].

    Gemm, the embedding head, is not counted.
    """
    counts = dict.fromkeys(WEIGHTED, 0)
    for node in network.graph.node:
        if node.op_type in counts:
            counts[node.op_type] += weights_of(network, [node.name])
    total = counts["Conv"] + counts["MatMul"]
    return counts["MatMul"] / total if total else 0.0


def weights_of(network: ModelProto, nodes: Iterable[str]) -> int:
    """Return the number of weights, without biases, in nodes with these names."""
    names = set(nodes)
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in network.graph.initializer if len(tensor.dims) > 1}
    return sum(
        sizes.get(name, 0)
        for node in network.graph.node
        if node.name in names and node.op_type in WEIGHTED
        for name in node.input
    )


def shallow_stem(network: ModelProto) -> list[str]:
    """Return the names of the convolutions on the image that stay in float; see ``FEWEST_TERMS``."""
    (image,) = (entry.name for entry in network.graph.input)
    shapes = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    return [
        node.name
        for node in network.graph.node
        if node.op_type == "Conv" and node.input[0] == image and np.prod(shapes[node.input[1]][1:]) < FEWEST_TERMS
    ]


def blocks_of(network: ModelProto, most: int = 24) -> dict[str, list[str]]:
    """Return the names of the nodes that can be quantised, grouped by the torch module they come from.

    Modules are named as in the torch model and follow the graph's order. Names are as deep as possible with at most
    ``most`` blocks, but at least one level.
    """
    quantised = (*WEIGHTED, *ABSORBED, *ADDITIONS)
    weights = {tensor.name for tensor in network.graph.initializer}
    stem = shallow_stem(network)
    nodes = [node for node in network.graph.node if node.op_type in quantised and node.name not in stem]
    paths = {node.name: _module_path(node, weights) for node in nodes}
    deepest = max((len(path) for path in paths.values()), default=1)
    for depth in range(deepest, 0, -1):
        blocks: dict[str, list[str]] = {}
        for name, path in paths.items():
            blocks.setdefault(".".join(path[:depth]) or "(model)", []).append(name)
        # A block without weights gains nothing from float.
        blocks = {block: names for block, names in blocks.items() if weights_of(network, names)}
        if len(blocks) <= most:
            break
    return blocks


def _module_path(node: NodeProto, weights: set[str]) -> list[str]:
    for name in node.input:
        if name in weights and name.endswith(".weight"):  # BatchNorm is already folded into its convolution
            return name.split(".")[:-1]
    for note in node.metadata_props:
        if note.key == MODULE_OF_NODE:
            scopes = ast.literal_eval(note.value)  # "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']"
            return str(scopes[-2] if len(scopes) > 1 else "").split(".")
    return [""]
