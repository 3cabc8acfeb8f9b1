"""Post-training int8 of a network alone: onnxruntime's static quantiser on calibration images."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

_ACTIVATIONS = {"u8s8": QuantType.QUInt8, "s8s8": QuantType.QInt8}
# Relu and Clip are named so that a convolution's output is quantised after the one that follows it.
_QUANTIZED = ["Conv", "Gemm", "MatMul", "Relu", "Clip"]


class _Batches(CalibrationDataReader):
    def __init__(self, pixels: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = iter(np.array_split(pixels, max(len(pixels) // 32, 1)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch}


def to_static_int8(model: nn.Module, pixels: np.ndarray, path: Path, scheme: str, per_channel: bool) -> Path:
    """Write a network as an int8 ONNX file; the embedding that it gives stays in float.

    Args:
        model: takes float32 ``(N, 3, H, W)``, gives ``(N, D)``.
        pixels: float32 ``(N, 3, H, W)``, the model's input for the calibration images; ranges are their min and max.
        path: the file to write.
        scheme: "u8s8" (activations uint8, asymmetric) or "s8s8" (int8, symmetric).
        per_channel: weights have a scale for each output channel, rather than one a layer.
    """
    with tempfile.TemporaryDirectory() as folder:
        traced, prepared = Path(folder) / "traced.onnx", Path(folder) / "prepared.onnx"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                deepcopy(model).cpu().eval(),
                (torch.from_numpy(pixels[:2]),),
                dynamo=True,
                opset_version=18,
                input_names=["pixels"],
                output_names=["embedding"],
                dynamic_shapes=({0: "N"},),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        del proto.graph.value_info[:]  # shapes that the quantiser would take for true
        onnx.save(proto, traced)
        quant_pre_process(traced, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _Batches(pixels),
            op_types_to_quantize=_QUANTIZED,
            per_channel=per_channel,
            activation_type=_ACTIVATIONS[scheme],
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": scheme == "s8s8",
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
            },
        )
    return path


def embed_with(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Embed float32 ``(N, 3, H, W)`` with a file of :func:`to_static_int8`, as ``(N, D)``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = np.array_split(pixels, max(len(pixels) // 64, 1))
    return np.concatenate([session.run(None, {"pixels": batch})[0] for batch in batches])
