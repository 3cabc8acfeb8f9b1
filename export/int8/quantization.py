"""One network graph in fp16 or int8: the schemes, calibration, and the quantisers, which are onnxruntime's."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.onnx.tracing import MODULE_OF_NODE
from zoo.errors import require_known
from zoo.models.int8_speed import FEWEST_TERMS

TARGETS = ("x86", "x86-vnni", "arm64", "web")
"""What int8 will run on; "x86" has VNNI if this processor does."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators that int8 makes smaller and faster. The others stay in float, but for ``_ABSORBED``."""
_ABSORBED = ("Relu", "Clip")  # the quantiser makes them the lower end of what precedes them: no node is left to run
_ADDITIONS = ("Add",)
_PERCENTILE = 99.99
MINMAX, _CLIPPED = "minmax", "percentile"
_CALIBRATED_AT_ONCE = 2  # images: all their intermediate tensors are in memory, 150 MB each in ResNet-50 at 224 pixels
_ATTENTION_SHARE = 0.5  # of the weights in matrix products, from which on a network counts as a transformer


@dataclass(frozen=True)
class Scheme:
    """How a network is quantised.

    Attributes:
        kind: "static" (QDQ: ranges of activations measured beforehand on images) or "dynamic" (found at each run).
        activations: "uint8", asymmetric, or "int8", symmetric; one scale per tensor.
        per_channel: whether each output channel of a weight has a scale of its own; weights are symmetric int8.
        ranges: with kind static, "minmax" or "percentile" (the most extreme 0.01 % is clipped); else "".
        additions: whether residual additions are quantised too.
        reduce_range: 7 bits for weights, which x86 without VNNI adds up at full speed: sums of 8-bit products saturate
            there, or take longer, see ``zoo.sessions``.
    """

    kind: str
    activations: str = "uint8"
    per_channel: bool = True
    ranges: str = ""
    additions: bool = False
    reduce_range: bool = False

    @property
    def name(self) -> str:
        """Return a name for tables, such as "static u8s8 per-channel minmax"."""
        activations = "u8" if self.activations == "uint8" else "s8"
        words = [self.kind, f"{activations}s8", "per-channel" if self.per_channel else "per-tensor", self.ranges]
        words += ["with additions" if self.additions else "", "7-bit weights" if self.reduce_range else ""]
        return " ".join(word for word in words if word)


def schemes_for(network: ModelProto, target: str, vnni: bool = True) -> list[Scheme]:
    """Return the schemes that fit a network and a target, the usual best first.

    Static for convolutional networks, dynamic for transformers, where ranges change from image to image; both for a
    mixture. On x86 and in browsers activations are uint8, which their kernels want; on arm64 int8 as well.

    Args:
        network: the graph.
        target: one of ``TARGETS``.
        vnni: whether this processor has VNNI.

    Raises:
        OptionError: unknown target.
    """
    require_known("target", target, TARGETS)
    reduced = target == "x86" and not vnni
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


def matmul_share(network: ModelProto) -> float:
    """Return the share of the weights of convolutions and matrix products that is in MatMul nodes, in [0, 1].

    Gemm, the embedding head, counts as neither.
    """
    counts = dict.fromkeys(WEIGHTED, 0)
    for node in network.graph.node:
        if node.op_type in counts:
            counts[node.op_type] += weights_of(network, [node.name])
    total = counts["Conv"] + counts["MatMul"]
    return counts["MatMul"] / total if total else 0.0


def weights_of(network: ModelProto, nodes: Iterable[str]) -> int:
    """Return how many weights nodes of these names have, biases aside."""
    names = set(nodes)
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in network.graph.initializer if len(tensor.dims) > 1}
    return sum(
        sizes.get(name, 0)
        for node in network.graph.node
        if node.name in names and node.op_type in WEIGHTED
        for name in node.input
    )


def shallow_stem(network: ModelProto) -> list[str]:
    """Return the names of the convolutions of the image that stay in float; see ``FEWEST_TERMS``."""
    (image,) = (entry.name for entry in network.graph.input)
    shapes = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    return [
        node.name
        for node in network.graph.node
        if node.op_type == "Conv" and node.input[0] == image and np.prod(shapes[node.input[1]][1:]) < FEWEST_TERMS
    ]


def blocks_of(network: ModelProto, most: int = 24) -> dict[str, list[str]]:
    """Return the names of the nodes that can be quantised, by the module of the torch model that they come from.

    Modules are named as in the torch model, as deep as gives no more than ``most`` blocks, but at least one name deep;
    in the graph's order.
    """
    quantised = (*WEIGHTED, *_ABSORBED, *_ADDITIONS)
    weights = {tensor.name for tensor in network.graph.initializer}
    stem = shallow_stem(network)
    nodes = [node for node in network.graph.node if node.op_type in quantised and node.name not in stem]
    paths = {node.name: _module_path(node, weights) for node in nodes}
    deepest = max((len(path) for path in paths.values()), default=1)
    for depth in range(deepest, 0, -1):
        blocks: dict[str, list[str]] = {}
        for name, path in paths.items():
            blocks.setdefault(".".join(path[:depth]) or "(model)", []).append(name)
        # A block without weights has nothing of its own to leave in float.
        blocks = {block: names for block, names in blocks.items() if weights_of(network, names)}
        if len(blocks) <= most:
            break
    return blocks


def _module_path(node: NodeProto, weights: set[str]) -> list[str]:
    for name in node.input:
        if name in weights and name.endswith(".weight"):  # a convolution and its BatchNorm are one node by now
            return name.split(".")[:-1]
    for note in node.metadata_props:
        if note.key == MODULE_OF_NODE:
            scopes = ast.literal_eval(note.value)  # "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']"
            return str(scopes[-2] if len(scopes) > 1 else "").split(".")
    return [""]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"tensor": batch}


def calibrate(network: ModelProto, ranges: str, tensors: Iterable[np.ndarray]) -> TensorsData:
    """Return the range of each activation that a static scheme needs.

    Memory is that of the network on one batch, and for percentiles a histogram of each activation.

    Args:
        network: the graph.
        ranges: "minmax" or "percentile".
        tensors: inputs of the network, float32 ``(1, 3, h, w)`` each.
    """
    method = CalibrationMethod.MinMax if ranges == MINMAX else CalibrationMethod.Percentile
    settings: dict[str, Any] = {}
    if method == CalibrationMethod.Percentile:
        settings = {"percentile": _PERCENTILE, "num_bins": 2048, "symmetric": False}
    with tempfile.TemporaryDirectory() as folder, _quietly():
        source = Path(folder) / "network.onnx"
        onnx.save(network, source)
        calibrator = create_calibrator(
            source,
            [*WEIGHTED, *_ABSORBED, *_ADDITIONS],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            extra_options=settings,
        )
        for batch in _batched(tensors, _CALIBRATED_AT_ONCE):
            calibrator.collect_data(_Batches([batch]))
        return calibrator.compute_data()


def _batched(tensors: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    for tensor in tensors:
        waiting.append(tensor)
        if len(waiting) == count:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def to_int8(
    network: ModelProto, scheme: Scheme, activations: TensorsData | None, in_float: Iterable[str] = ()
) -> ModelProto:
    """Return the network in int8, but for a shallow first layer and the head's output, the embedding.

    Args:
        network: the graph, in fp32; left as it is.
        scheme: how.
        activations: their ranges, from :func:`calibrate`; None for a dynamic scheme.
        in_float: names of nodes to leave in float.
    """
    copied = ModelProto.FromString(network.SerializeToString())
    with _quietly():
        if scheme.kind == "dynamic":
            return _dynamic(copied, scheme, list(in_float))
        operators = [*WEIGHTED, *_ABSORBED, *(_ADDITIONS if scheme.additions else ())]
        quantizer = QDQQuantizer(
            copied,
            scheme.per_channel,
            scheme.reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
            activations,
            [],
            [*in_float, *shallow_stem(network)],
            operators,
            {
                "WeightSymmetric": True,
                "ActivationSymmetric": scheme.activations == "int8",
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # the head: embeddings stay in float
            },
        )
        quantizer.quantize_model()
        _keep_float(quantizer.model.model)
        return _sorted(quantizer.model.model)


def _keep_float(network: ModelProto) -> None:
    """Have onnxruntime compute in float what is in float between nodes in int8.

    It takes a convolution or Gemm of float weights between DequantizeLinear and QuantizeLinear for one whose weights
    were forgotten, and rounds them to int8 when it opens the file, with one scale for all (its optimizer
    WeightBiasQuantization). It does so where the input has one scale, also before a MaxPool. So the input gets one for
    each channel, all alike, which is the same arithmetic.
    """
    graph = network.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = ONNXModel(network).output_name_to_node()
    dequantizing = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    for node in list(graph.node):
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in tensors:
            continue
        reader = node
        while (source := makers.get(reader.input[0])) is not None and source.op_type == "MaxPool":
            reader = source
        if source is None or source.op_type != "DequantizeLinear":
            continue
        values, *parameters = source.input
        output = f"{reader.name}_float_input"
        repeated = []
        for parameter in parameters:
            array = np.full(_input_channels(node, tensors[node.input[1]]), numpy_helper.to_array(tensors[parameter]))
            repeated.append(f"{output}_{parameter}")
            graph.initializer.append(numpy_helper.from_array(array, repeated[-1]))
        graph.node.append(onnx.helper.make_node("DequantizeLinear", [values, *repeated], [output], output, axis=1))
        reader.input[0] = output
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in dequantizing:
        if node.output[0] not in used:
            graph.node.remove(node)


def _input_channels(node: NodeProto, weight: TensorProto) -> int:
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1] * attributes.get("group", 1))
    return int(weight.dims[1 if attributes.get("transB") else 0])


def _dynamic(network: ModelProto, scheme: Scheme, in_float: list[str]) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        quantize_dynamic(
            network,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],  # dynamic convolutions are ten times slower than float ones
            per_channel=scheme.per_channel,
            reduce_range=scheme.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=in_float,
        )
        return _sorted(onnx.load(path))


def to_fp16(network: ModelProto) -> ModelProto:
    """Return the network in float16 by onnxruntime's converter; its input and output stay float32."""
    copied = ModelProto.FromString(network.SerializeToString())
    with _quietly():
        return _sorted(convert_float_to_float16(copied, keep_io_types=True))


def _sorted(network: ModelProto) -> ModelProto:
    """Put nodes in an order that the ONNX checker accepts; the converters append some at the end."""
    ordered = ONNXModel(network)
    ordered.topological_sort()
    return ordered.model


def fits_float16(network: ModelProto) -> bool:
    """Return whether all weights lie in float16's range; the converter would clip the others to its ends."""
    largest = np.finfo(np.float16).max
    arrays = (numpy_helper.to_array(tensor) for tensor in network.graph.initializer)
    return all(bool((np.abs(array) <= largest).all()) for array in arrays if array.dtype.kind == "f")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep onnxruntime's quantisers from printing, and from advising steps that were taken already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
