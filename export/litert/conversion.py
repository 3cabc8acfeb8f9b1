"""A network as a LiteRT model, in float32 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.onnx.tracing import PixelsToVector
from zoo.errors import ModelError, first_line
from zoo.models.network import normalize_embeddings

log = logging.getLogger(__name__)

SIGNATURE, INPUT = "serving_default", "args_0"
# Names of operations in the module itself; in the names of its submodules' operations a slash follows.
_NORMALIZATION = r"ResizedPixelsToVector;\d+|serving_default_output"
FP32, INT8 = "fp32", "int8"


class ResizedPixelsToVector(nn.Module):
    """What a LiteRT file must compute: everything except resize and crop."""

    def __init__(self, whole: PixelsToVector) -> None:
        super().__init__()
        self.normalize, self.network, self.unit = whole.preprocess.normalize, whole.network, whole.normalize

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed float32 ``(1, h, w, 3)``, pixels 0..255; returns float32 ``(1, dim)``."""
        embedding: Tensor = self.network(self.normalize(pixels.permute(0, 3, 1, 2)))
        return normalize_embeddings(embedding) if self.unit else embedding


def convert(module: ResizedPixelsToVector, size: tuple[int, int], name: str) -> bytes:
    """Return a module as a LiteRT model in float32.

    Args:
        module: the module, in eval mode on the CPU.
        size: height and width of its input, in pixels.
        name: name of the model, for messages.

    Raises:
        ModelError: litert-torch cannot convert it.
    """
    import litert_torch

    with tempfile.TemporaryDirectory() as folder, _quiet():
        file = Path(folder) / "model.tflite"
        try:
            litert_torch.convert(module, (torch.zeros(1, *size, 3),)).export(str(file))
        except Exception as error:  # the converter raises many kinds
            raise ModelError(f"litert-torch cannot convert {name} ({first_line(error)}). Export it to ONNX.") from error
        return file.read_bytes()


def quantize(model: bytes, images: Sequence[np.ndarray], name: str, unit: bool) -> bytes:
    """Return a model with int8 weights and activations, calibrated on images; input and output stay float.

    L2 normalisation stays float too: in int8, lengths would be off by a hundredth.

    Args:
        model: a model from :func:`convert`.
        images: calibration images, float32 ``(1, h, w, 3)``, pixels 0..255.
        name: name of the model, for messages.
        unit: whether the model ends in L2 normalisation.

    Raises:
        ModelError: ai-edge-quantizer cannot quantise it.
    """
    from ai_edge_quantizer import quantizer, recipe

    try:
        with _quiet():
            work: Any = quantizer.Quantizer(model, recipe.static_wi8_ai8())
            for place in (recipe.TFLOperationName.INPUT, recipe.TFLOperationName.OUTPUT):
                work.update_quantization_recipe(
                    regex=".*", operation_name=place, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE
                )
            if unit:
                work.update_quantization_recipe(
                    regex=_NORMALIZATION,
                    operation_name=recipe.TFLOperationName.ALL_SUPPORTED,
                    algorithm_key=recipe.AlgorithmName.NO_QUANTIZE,
                )
            ranges = work.calibrate({SIGNATURE: [{INPUT: image} for image in images]}, num_threads=1)
            return bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
    except Exception as error:  # the quantiser raises many kinds
        raise ModelError(f"ai-edge-quantizer cannot quantise {name} ({first_line(error)}). Ship fp32.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter's progress output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
