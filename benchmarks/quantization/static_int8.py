"""Post-training int8 of a network alone, by the exporter's quantiser on given calibration inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from torch import nn

from export.quantization import Scheme, calibrate, to_int8
from export.tracing import trace_model

_ACTIVATIONS = {"u8s8": "uint8", "s8s8": "int8"}


def to_static_int8(model: nn.Module, tensors: np.ndarray, path: Path, scheme: str, per_channel: bool) -> Path:
    """Write a network as an int8 ONNX file, without preprocessing and normalisation.

    Args:
        model: takes float32 ``(N, 3, H, W)``, gives ``(N, D)``.
        tensors: float32 ``(N, 3, H, W)``, the model's input for the calibration images; ranges are their min and max.
        path: the file to write.
        scheme: "u8s8" (activations uint8, asymmetric) or "s8s8" (int8, symmetric).
        per_channel: weights have a scale for each output channel, rather than one a layer.
    """
    network = trace_model(model).graphs.network
    ranges = calibrate(network, "minmax", np.split(tensors, len(tensors)))
    onnx.save(to_int8(network, Scheme("static", _ACTIVATIONS[scheme], per_channel, "minmax"), ranges), path)
    return path


def embed_with(path: Path, tensors: np.ndarray) -> np.ndarray:
    """Embed float32 ``(N, 3, H, W)`` with a file of :func:`to_static_int8`, as ``(N, D)``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = np.array_split(tensors, max(len(tensors) // 64, 1))
    return np.concatenate([session.run(None, {"tensor": batch})[0] for batch in batches])
