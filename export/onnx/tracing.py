"""The exported model as a torch module, its ONNX graph, and the comparison of the two."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.compose import add_prefix, merge_models
from timm.layers import SelectAdaptivePool2d
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import ModelLike
from zoo.errors import ModelError, first_line, require_known
from zoo.files import digest
from zoo.formats.onnx_content import DIGEST_KEY, content_digest
from zoo.formats.onnx_metadata import SCHEMA as METADATA_SCHEMA
from zoo.models.facts import COSINE, facts_of, without_places
from zoo.models.folder import load_model
from zoo.models.network import normalize_embeddings, preprocessing_of, summary_of
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.paths import given_path
from zoo.sessions import cpu_session
from zoo.versions import versions

log = logging.getLogger(__name__)

OPSET = 18
MODULE_OF_NODE = "pkg.torch.onnx.name_scopes"
PIXELS, TENSOR = INPUTS = ("pixels", "tensor")


class PixelsToVector(nn.Module):
    """Preprocessing, network and normalisation in one module: what the ONNX file must compute."""

    def __init__(self, preprocess: Preprocess, network: nn.Module, normalize: bool) -> None:
        super().__init__()
        self.resized_size = preprocess.preprocessing.resized_size
        self.preprocess = preprocess
        self.network = network
        self.normalize = normalize

    def forward(self, image: Tensor) -> Tensor:
        """Embed uint8 ``(N, H, W, 3)``; returns float32 ``(N, dim)``."""
        embedding: Tensor = self.network(self.preprocess(image))
        return normalize_embeddings(embedding) if self.normalize else embedding


def pixels_to_vector(model: nn.Module) -> PixelsToVector:
    """Wrap a copy of a model, in eval mode on the CPU, its branches merged by timm's reparameterisation."""
    network = _with_plain_pooling(reparameterize_model(deepcopy(model).cpu().eval()))
    return PixelsToVector(Preprocess(preprocessing_of(model)), network, facts_of(model).metric == COSINE).eval()


def _with_plain_pooling(network: nn.Module) -> nn.Module:
    """Replace adaptive pooling to size 1, in place: ONNX has none, and torch 2.11 does not work around that."""
    for pooling in list(network.modules()):
        if isinstance(pooling, SelectAdaptivePool2d) and getattr(pooling.pool, "output_size", None) == 1:
            pooling.add_module("pool", SelectAdaptivePool2d(pool_type=f"fast{pooling.pool_type}").pool)
    return network


@dataclass(frozen=True, eq=False)
class Graphs:
    """The parts of an ONNX file; only the network is ever converted to another precision.

    The other two are shared between models and must not be modified in place.

    Attributes:
        preprocess: ``image`` uint8 ``(N, H, W, 3)``, any N, H and W, to ``tensor`` float32 ``(N, 3, h, w)``.
        network: ``tensor`` to ``vector`` float32 ``(N, dim)``; any N.
        normalize: ``vector`` to ``embedding`` float32 ``(N, dim)`` of unit norm; None if the metric is not cosine.
    """

    preprocess: onnx.ModelProto
    network: onnx.ModelProto
    normalize: onnx.ModelProto | None


@dataclass(frozen=True, eq=False)
class Traced:
    """A model with its graphs.

    Attributes:
        name: name of the model, for messages.
        folder: the model folder; None for a model in memory.
        model: the model.
        whole: what the file must compute.
        graphs: its parts, in fp32.
    """

    name: str
    folder: Path | None
    model: nn.Module
    whole: PixelsToVector
    graphs: Graphs

    @property
    def dim(self) -> int:
        """Dimensions of the embedding."""
        return int(self.graphs.network.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def trace_model(model: ModelLike) -> Traced:
    """Open a model and trace it.

    Raises:
        ModelError: the model is missing, broken, or cannot be exported.
    """
    folder = given_path(model) if isinstance(model, str | Path) else None
    network = load_model(model) if isinstance(model, str | Path) else model
    name = type(model).__name__ if folder is None else str(folder)
    whole = pixels_to_vector(network)
    log.info("exporting %s", name)
    try:
        graphs = trace(whole)
    except Exception as error:  # the exporter raises many kinds
        reason = first_line(error.__cause__ or error)  # the exporter's own words say only that it failed
        raise ModelError(f"Cannot export {name} to ONNX: {reason}") from error
    return Traced(name, folder, network, whole, graphs)


def trace(whole: PixelsToVector) -> Graphs:
    """Export the parts to ONNX with PyTorch's dynamo exporter, weights inside."""
    with torch.no_grad():
        tensor = whole.preprocess(_example_image())
        vector = whole.network(tensor)
    if vector.ndim != 2:
        raise ValueError(
            f"it gives shape {tuple(vector.shape)} where an embedding is (N, D); give it a pooling or a head"
        )
    if not bool(torch.isfinite(vector).all()):
        raise ValueError("its embeddings are not finite; its weights are broken, or training diverged")
    network = _traced(whole.network, tensor, ("tensor", "vector"), {0: "N"})
    normalize = _normalize_graph(vector.shape[1]) if whole.normalize else None
    return Graphs(_preprocess_graph(whole.preprocess.preprocessing), network, normalize)


@lru_cache(maxsize=8)
def _preprocess_graph(preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return the graph of the preprocessing; cached, because tracing it takes as long as a small network."""
    return _traced(Preprocess(preprocessing), _example_image(), ("image", "tensor"), {0: "N", 1: "H", 2: "W"})


@lru_cache(maxsize=8)
def _normalize_graph(dim: int) -> onnx.ModelProto:
    return _traced(_Normalize(), torch.ones(2, dim), ("vector", "embedding"), {0: "N"})


def _example_image() -> Tensor:
    return torch.randint(0, 256, (2, 121, 133, 3), dtype=torch.uint8)


class _Normalize(nn.Module):
    def forward(self, vector: Tensor) -> Tensor:
        return normalize_embeddings(vector)


def _traced(module: nn.Module, example: Tensor, names: tuple[str, str], dynamic: dict[int, str]) -> onnx.ModelProto:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=(dynamic,),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is None only without dynamo
    proto = program.model_proto
    for node in proto.graph.node:  # keep the exporter's note of the module, but not source lines and local paths
        modules = [note for note in node.metadata_props if note.key == MODULE_OF_NODE]
        del node.metadata_props[:]
        node.metadata_props.extend(modules)
    # After the exporter's own rewriting some of its shapes are stale, which breaks quantisers.
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(proto)


def join(graphs: Graphs, takes: str) -> onnx.ModelProto:
    """Return one graph with output ``embedding`` and input ``image`` (takes "pixels") or ``tensor`` (takes "tensor").

    Raises:
        OptionError: ``takes`` is something else.
    """
    require_known("input", takes, INPUTS)
    joined = graphs.network
    if graphs.normalize is not None:
        normalize = add_prefix(graphs.normalize, "normalize/", rename_inputs=False, rename_outputs=False)
        joined = _merged(joined, normalize, "vector")
    else:
        joined = onnx.ModelProto.FromString(joined.SerializeToString())
        for node in joined.graph.node:
            node.output[:] = ["embedding" if name == "vector" else name for name in node.output]
        joined.graph.output[0].name = "embedding"
    if takes == PIXELS:
        preprocess = add_prefix(graphs.preprocess, "preprocess/", rename_inputs=False, rename_outputs=False)
        joined = _merged(preprocess, joined, "tensor")
    return joined


def _merged(first: onnx.ModelProto, second: onnx.ModelProto, name: str) -> onnx.ModelProto:
    versions_of = {entry.domain: entry.version for proto in (first, second) for entry in proto.opset_import}
    version = max(first.ir_version, second.ir_version)  # merging requires equal versions
    merged = merge_models(_of_version(first, version), _of_version(second, version), [(name, name)])
    del merged.opset_import[:]  # entries that both have are listed twice
    merged.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions_of.items())
    return merged


def _of_version(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return a graph with another IR version, a copy if it has to change."""
    if proto.ir_version == version:
        return proto
    copied = onnx.ModelProto.FromString(proto.SerializeToString())
    copied.ir_version = version
    return copied


@torch.inference_mode()
def difference(whole: PixelsToVector, path: Path, images: Sequence[np.ndarray], takes: str = PIXELS) -> float:
    """Return the largest absolute difference between elements of an ONNX file's and the module's embeddings.

    Compares batches of 1, 2, 3 and 5 images at three sizes, smaller and larger than what they are resized to. The
    difference is relative to the largest element if that is above 1, and infinite if a shape differs or a value is not
    finite.

    Args:
        whole: the module.
        path: the file.
        images: uint8 ``(H, W, 3)``.
        takes: the file's input, "pixels" or "tensor".
    """
    session = cpu_session(path, threads=None)
    side = max(whole.resized_size)
    worst = 0.0
    for count in (1, 2, 3, 5):
        for height, width in ((side * 2 // 3, side * 2 // 3), (side, side * 3 // 2 + 1), (side * 3 + 1, side * 2)):
            batch = np.stack([_fitted(images[i % len(images)], height, width) for i in range(count)])
            expected = whole(torch.from_numpy(batch)).numpy()
            given = (
                {"image": batch} if takes == PIXELS else {"tensor": whole.preprocess(torch.from_numpy(batch)).numpy()}
            )
            (found,) = session.run(None, given)
            if found.shape != expected.shape or not np.isfinite(found).all():
                return float("inf")
            worst = max(worst, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
    return worst


def metadata(traced: Traced, takes: str) -> dict[str, str]:
    """Return the metadata of an fp32 file that takes "pixels" or "tensor"; see docs/formats.md."""
    model, folder = traced.model, traced.folder
    facts, summary = without_places(facts_of(model)), summary_of(model)
    entries: dict[str, Any] = {
        "schema": METADATA_SCHEMA,
        "architecture": str(summary["architecture"]),
        "dim": str(traced.dim),
        "parameters": str(summary["parameters"]),
        "metric": facts.metric,
        "precision": "fp32",
        "preprocessing": json.dumps(preprocessing_of(model).as_pretrained_cfg() | {"inside": takes == PIXELS}),
        "loss": facts.loss or "",
        "data": json.dumps(facts.data),
        "teacher": json.dumps(facts.teacher or {}),
        "versions": json.dumps(versions()),
    }
    if folder is not None:
        entries["source_digest"] = digest(folder / "model.safetensors")
    return entries


def save(proto: onnx.ModelProto, path: Path, entries: dict[str, str]) -> None:
    """Write a graph with its metadata and a digest of both, and run the ONNX checker in full mode."""
    del proto.metadata_props[:]  # notes of the quantisers
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)
    proto.metadata_props.add(key=DIGEST_KEY, value=content_digest(path))
    onnx.save(proto, path)
    onnx.checker.check_model(str(path), full_check=True)


def smooth_images(count: int = 5) -> list[np.ndarray]:
    """Return images with structure at several scales, uint8 ``(160, 160, 3)``; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        functional.interpolate(torch.rand(count, 3, side, side, generator=generator), size=160, mode="bicubic")
        for side in (4, 16, 80)
    ]
    pixels = (torch.stack(layers).mean(0).clamp(0, 1) * 255).to(torch.uint8)
    return [np.ascontiguousarray(image) for image in pixels.permute(0, 2, 3, 1).numpy()]


def _fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image cropped, or padded by mirroring at its edges, to a size; nothing is resampled."""
    missing = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
    return np.pad(image, missing, mode="symmetric")[:height, :width]
