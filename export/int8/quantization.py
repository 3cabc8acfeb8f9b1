"""A network graph in fp16 or int8: calibration and quantisation by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
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

from export.int8.schemes import ABSORBED, ADDITIONS, MINMAX, WEIGHTED, Scheme, shallow_stem
from zoo.errors import OptionError
from zoo.files import full_disk_named

_PERCENTILE = 99.99
_CALIBRATED_AT_ONCE = 2  # images; all their activations are in memory, 150 MB per image in ResNet-50 at 224 pixels


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"tensor": batch}


def calibrate(network: ModelProto, ranges: str, tensors: Iterable[np.ndarray]) -> TensorsData:
    """Return the range of each activation that a static scheme needs.

    Memory is that of the network on one batch, plus a histogram per activation for percentiles.

    Args:
        network: the graph.
        ranges: "minmax" or "percentile".
        tensors: inputs of the network, float32 ``(1, 3, h, w)`` each.
    """
    method = CalibrationMethod.MinMax if ranges == MINMAX else CalibrationMethod.Percentile
    settings: dict[str, Any] = {}
    if method == CalibrationMethod.Percentile:
        settings = {"percentile": _PERCENTILE, "num_bins": 2048, "symmetric": False}
    with _scratch() as folder, _quietly():
        source = folder / "network.onnx"
        onnx.save(network, source)
        calibrator = create_calibrator(
            source,
            [*WEIGHTED, *ABSORBED, *ADDITIONS],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=method,
            extra_options=settings,
        )
        for batch in _batched(tensors, _CALIBRATED_AT_ONCE):
            calibrator.collect_data(_Batches([batch]))
        return calibrator.compute_data()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a temporary folder for the files that onnxruntime's quantisers write.

    Raises:
        OptionError: there is none, or it has no room.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, full_disk_named(folder):
            yield Path(folder)
    except OSError as error:
        raise OptionError(
            f"{tempfile.tempdir or 'The temporary folder'} cannot hold the copies of the network that quantising makes "
            f"({error.strerror or error}). Set TMPDIR to a folder with more room."
        ) from error


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
    """Return the network in int8, except a shallow first layer and the head's output, the embedding.

    Args:
        network: the graph, in fp32; not modified.
        scheme: the scheme to quantise by.
        activations: ranges from :func:`calibrate`, not modified; None for a dynamic scheme.
        in_float: names of nodes to leave in float.
    """
    copied = ModelProto.FromString(network.SerializeToString())
    with _quietly():
        if scheme.kind == "dynamic":
            return _dynamic(copied, scheme, list(in_float))
        assert activations is not None
        # A copy: the quantiser gives the tensor before a ReLU the range of the one after it.
        ranges = TensorsData(activations.calibration_method, activations.data)
        operators = [*WEIGHTED, *ABSORBED, *(ADDITIONS if scheme.additions else ())]
        quantizer = QDQQuantizer(
            copied,
            scheme.per_channel,
            scheme.reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
            ranges,
            [],
            [*in_float, *shallow_stem(network)],
            operators,
            {
                "WeightSymmetric": True,
                "ActivationSymmetric": scheme.activations == "int8",
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # the head: its output, the embedding, stays in float
            },
        )
        quantizer.quantize_model()
        _keep_float(quantizer.model.model)
        return _sorted(quantizer.model.model)


def _keep_float(network: ModelProto) -> None:
    """Keep onnxruntime from rounding the float weights of nodes left in float between int8 nodes.

    When it opens a file, its optimizer WeightBiasQuantization takes a convolution or Gemm with float weights between
    DequantizeLinear and QuantizeLinear for one whose weights were not quantised by oversight, and rounds them to int8
    with one scale for all. It does so if the input has a single scale, also with a MaxPool in between. So the input
    gets one scale per channel, all equal, which is the same arithmetic.
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
    with _scratch() as folder:
        path = folder / "network.onnx"
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
    """Return the network in float16, from onnxruntime's converter; input and output stay float32."""
    copied = ModelProto.FromString(network.SerializeToString())
    with _quietly():
        return _sorted(convert_float_to_float16(copied, keep_io_types=True))


def _sorted(network: ModelProto) -> ModelProto:
    """Sort nodes topologically, as the ONNX checker demands; the converters append some at the end."""
    ordered = ONNXModel(network)
    ordered.topological_sort()
    return ordered.model


def fits_float16(network: ModelProto) -> bool:
    """Return whether all weights are in float16's range; the converter would clip others to its limits."""
    largest = np.finfo(np.float16).max
    arrays = (numpy_helper.to_array(tensor) for tensor in network.graph.initializer)
    return all(bool((np.abs(array) <= largest).all()) for array in arrays if array.dtype.kind == "f")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence onnxruntime's quantisers, which print, and advise steps that were taken already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
