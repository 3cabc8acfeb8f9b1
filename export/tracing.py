"""The artefact as a torch module, its ONNX graph, and the comparison of the two."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional

from zoo.files import digest
from zoo.models import COSINE, facts_of, normalize_embeddings, preprocessing_of, summary_of
from zoo.preprocessing import Preprocess
from zoo.versions import versions

OPSET = 18
METADATA_SCHEMA = "1"


class PixelsToVector(nn.Module):
    """Preprocessing, network and normalisation in one: what the ONNX file must compute."""

    def __init__(self, preprocess: nn.Module, network: nn.Module, normalize: bool) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.normalize = normalize

    def forward(self, image: Tensor) -> Tensor:
        """Take uint8 ``(N, H, W, 3)``; give float32 ``(N, dim)``."""
        embedding: Tensor = self.network(self.preprocess(image))
        return normalize_embeddings(embedding) if self.normalize else embedding


def pixels_to_vector(model: nn.Module) -> PixelsToVector:
    """Wrap a copy of a model, its branches merged (timm's reparameterisation), in eval mode on the CPU."""
    network = reparameterize_model(deepcopy(model).cpu().eval())
    return PixelsToVector(Preprocess(preprocessing_of(model)), network, facts_of(model).metric == COSINE).eval()


def trace(whole: PixelsToVector) -> onnx.ModelProto:
    """Export to ONNX by PyTorch's dynamo exporter: batch, height and width dynamic, weights inside."""
    example = torch.randint(0, 256, (2, 121, 133, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["embedding"],
            dynamic_shapes={"image": {0: "N", 1: "H", 2: "W"}},
            external_data=False,
            verbose=False,
        )
    assert program is not None  # only without dynamo is there no program
    return program.model_proto


@torch.inference_mode()
def difference(whole: PixelsToVector, path: Path, images: Sequence[np.ndarray]) -> float:
    """Return how far an ONNX file is from the module: the largest absolute difference of an element.

    Taken over batches of 1, 2, 3 and 5 images at three sizes; as a share of the largest element where that is above 1.
    Infinite where a shape differs or a value is not finite.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in (1, 2, 3, 5):
        for height, width in ((64, 64), (96, 131), (150, 77)):
            batch = np.stack([_resized(images[i % len(images)], height, width) for i in range(count)])
            expected = whole(torch.from_numpy(batch)).numpy()
            (found,) = session.run(None, {"image": batch})
            if found.shape != expected.shape or not np.isfinite(found).all():
                return float("inf")
            worst = max(worst, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
    return worst


def metadata(model: nn.Module, folder: Path | None, proto: onnx.ModelProto) -> dict[str, str]:
    """Return what the file says of itself; see docs/formats.md.

    Args:
        model: the model it was made from.
        folder: where that came from, if from a folder.
        proto: the graph.
    """
    facts, summary = facts_of(model), summary_of(model)
    dim = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    entries: dict[str, Any] = {
        "schema": METADATA_SCHEMA,
        "architecture": str(summary["architecture"]),
        "dim": str(dim),
        "parameters": str(summary["parameters"]),
        "metric": facts.metric,
        "precision": "fp32",
        "preprocessing": json.dumps(preprocessing_of(model).as_pretrained_cfg() | {"inside": True}),
        "loss": facts.loss or "",
        "data": json.dumps(facts.data),
        "teacher": json.dumps(facts.teacher or {}),
        "versions": json.dumps(versions()),
    }
    if folder is not None:
        entries["source_digest"] = digest(folder / "model.safetensors")
    return entries


def smooth_images(count: int = 5) -> list[np.ndarray]:
    """Return images with structure at several scales, uint8 ``(160, 160, 3)``; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        functional.interpolate(torch.rand(count, 3, side, side, generator=generator), size=160, mode="bicubic")
        for side in (4, 16, 80)
    ]
    pixels = (torch.stack(layers).mean(0).clamp(0, 1) * 255).to(torch.uint8)
    return [np.ascontiguousarray(image) for image in pixels.permute(0, 2, 3, 1).numpy()]


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
