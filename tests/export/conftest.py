"""One tiny network as ONNX files of every precision and input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from export import to_onnx
from export.onnx.tracing import smooth_images
from zoo.models.making import create_model

FLOAT_BLOCK = "layer4.0"  # what the file of precision int8 leaves in float: 3 of 15 convolutions


class Calibration(CalibrationDataReader):
    """Gives each image in a batch of its own."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"image": image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def save(proto: onnx.ModelProto, path: Path, **metadata: Any) -> Path:
    """Save a graph with these entries in its metadata over those it has; what is not text becomes JSON."""
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    entries |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    entries.pop("content_digest", None)  # of what the graph was before
    onnx.helper.set_model_props(proto, entries)
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files "fp32", "fp16", "int8" (static, but for a block), "dynamic" (int8) and "tensor" (fp32), of 32 px."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = create_model("test_resnet", 8, image_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # else the convolutions have no biases
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
    found = {"fp32": to_onnx(model.eval(), folder / "fp32.onnx")}
    proto = onnx.load(found["fp32"])

    half = convert_float_to_float16(onnx.load(found["fp32"]), keep_io_types=True, op_block_list=["Resize"])
    found["fp16"] = save(half, folder / "fp16.onnx", precision="fp16")

    bare = folder / "bare.onnx"
    del proto.graph.value_info[:]  # quantize_dynamic turns Gemm about and trips over the old shapes
    onnx.save(proto, bare)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    left = [node.name for node in convolutions if FLOAT_BLOCK in node.input[1]]
    operators = ["Conv", "Gemm", "MatMul"]
    quantize_static(
        bare,
        folder / "static.onnx",
        Calibration(smooth_images()),
        op_types_to_quantize=operators,
        nodes_to_exclude=left,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    scheme = {"scheme": "u8s8 per-channel minmax", "kind": "static", "float_blocks": [FLOAT_BLOCK]}
    found["int8"] = save(onnx.load(folder / "static.onnx"), folder / "int8.onnx", precision="int8", quantization=scheme)
    quantize_dynamic(bare, folder / "d.onnx", operators, weight_type=QuantType.QInt8)
    found["dynamic"] = save(onnx.load(folder / "d.onnx"), folder / "dynamic.onnx", precision="int8")

    found["tensor"] = to_onnx(model, folder / "tensor.onnx", input="tensor")
    return found
