"""A model as a ``.tflite`` file, refused if recall drops too far: :func:`write_litert`."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.int8.budget import Budget, Drop
from export.int8.judge import Judge, balanced, images_of
from export.litert.conversion import FP32, INT8, ResizedPixelsToVector, convert, quantize
from export.litert.mediapipe import embedder_metadata, with_metadata
from export.onnx.tracing import Traced, metadata, smooth_images, trace_model
from zoo.arguments import ModelLike, require_at_least
from zoo.data.image_set import DataSplits
from zoo.errors import ModelError, RefusedError, require_known
from zoo.files import replacing
from zoo.formats.tflite_file import with_facts
from zoo.models.facts import names_only
from zoo.progress import progress
from zoo.teachers.runtimes.litert_file import LiteRtTeacher

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
PRECISIONS = (FP32, INT8)


def write_litert(
    model: ModelLike,
    path: Path,
    precision: str,
    splits: DataSplits | None,
    *,
    max_drop: float | None,
    budget_by: str,
    calibration_images: int,
    judged_images: int,
    max_unreadable: int,
    seed: int,
) -> None:
    """Write a model as a ``.tflite`` file for LiteRT, with MediaPipe's metadata.

    Input: float32 ``(1, h, w, 3)``, pixels 0..255, RGB, resized and cropped by the caller. Output: float32
    ``(1, dim)``, of unit length if the metric is cosine. In float32 the file is compared with the torch model. With
    data, either precision is judged like int8 in ONNX: by recall on validation classes and other training images.

    Args:
        model: a model folder, or a timm model in memory.
        path: the file.
        precision: fp32 or int8.
        splits: data to calibrate int8 and to judge on; None to compare with the torch model only.
        max_drop: as for ``export_model``, like the options that follow.

    Raises:
        RefusedError: the file loses more than the budget. It is not written, and an earlier one is removed.
        ModelError: the model cannot be converted, or the fp32 file gives other embeddings.
    """
    require_known("precision of a .tflite file", precision, PRECISIONS)
    require_at_least(1, calibration_images=calibration_images, judged_images=judged_images)
    traced = trace_model(model)
    module = ResizedPixelsToVector(traced.whole).eval()
    size = traced.whole.preprocess.preprocessing.input_size
    log.info("converting %s to LiteRT (minutes)", traced.name)
    content = convert(module, size, traced.name)
    said = metadata(traced, "pixels") | {"precision": precision}
    said["preprocessing"] = json.dumps(json.loads(said["preprocessing"]) | {"inside": False})
    try:
        with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
            judge = None
            if splits is not None:
                calibration, parts = images_of(splits, calibration_images, judged_images, max_unreadable, seed)
                judge = Judge(traced, parts, Path(folder), seed)
            if precision == INT8:
                assert splits is not None
                rows = balanced(calibration, calibration_images, seed)
                shown = [_given(traced, calibration.pixels(int(row))) for row in rows]
                content = quantize(content, shown, traced.name, module.unit)
            description = f"Embeds images of {size[0]} x {size[1]} pixels in {traced.dim} dimensions."
            named = with_metadata(content, embedder_metadata(names_only(Path(traced.name).name), description))
            Path(temporary).write_bytes(with_facts(named, said))
            written = LiteRtTeacher(Path(temporary))
            worst = _difference(traced, module, written)
            if precision == FP32 and not worst <= TOLERANCE:
                raise ModelError(
                    f"The LiteRT file of {traced.name} differs from the model by {worst:.1e} (limit {TOLERANCE:.0e}) "
                    "and was not written. Another version of litert-torch may convert it correctly."
                )
            if judge is not None:
                _require_recall(judge, traced, written, Budget(max_drop, budget_by), precision)
    except RefusedError:
        path.unlink(missing_ok=True)  # an older file must not pass for this one
        raise
    log.info("%s: %.2f MB, differs from torch by %.1e at most", path, path.stat().st_size / 1e6, worst)


def _given(traced: Traced, pixels: np.ndarray) -> np.ndarray:
    """Return the file's input for an image, float32 ``(1, h, w, 3)``."""
    resized = traced.whole.preprocess.resize(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float())
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


@torch.inference_mode()
def _difference(traced: Traced, module: ResizedPixelsToVector, written: LiteRtTeacher) -> float:
    """Return the largest difference of an element, relative to the largest element if that is above 1."""
    worst = 0.0
    for image in smooth_images(5):
        expected = module(torch.from_numpy(_given(traced, image))).numpy()
        found = written.embed_pixels(image)
        if found.shape != expected.shape:
            return float("inf")
        worst = max(worst, float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    return worst


def _require_recall(judge: Judge, traced: Traced, written: LiteRtTeacher, budget: Budget, precision: str) -> None:
    """Refuse a file whose drop in recall below the float32 network exceeds the budget."""
    scores: list[tuple[np.ndarray, np.ndarray]] = []
    for part, tensors in enumerate(judge.tensors):
        expected = judge.measure(judge.embed(traced.graphs.network, one_by_one=False, part=part), part)[0]
        normalize = traced.whole.preprocess.normalize
        pixels: list[Tensor] = [torch.from_numpy(row)[None] * normalize.std + normalize.mean for row in tensors]
        found = np.concatenate([written.embed_resized(image) for image in progress(pixels, "embedding")])
        scores.append((judge.measure(found, part)[0], expected))
    drops = [Drop.of(found, expected, judge.seed) for found, expected in scores]
    all_found, all_expected = (np.concatenate(each) for each in zip(*scores, strict=True))
    whole = Drop.of(all_found, all_expected, judge.seed)
    low, high = (100 * end for end in whole.interval)
    told = f"{precision} for LiteRT: {judge.name} {100 * whole.score:.2f} %, {100 * whole.mean:.2f} points below fp32's"
    told += f" [{low:.2f}, {high:.2f}] on {whole.queries:,} images"
    if not budget.holds(drops, whole):
        record = {"precision": precision, "measure": judge.name, "images": whole.queries, "score": whole.score}
        record |= {"drop": whole.mean, "drop_interval": list(whole.interval), "max_drop": budget.max_drop}
        instead = "Ship fp32" if precision == INT8 else "Export to .onnx"
        raise RefusedError(
            f"{told}, and the budget is {100 * (budget.max_drop or 0):g}.",
            f"The file was not written. {instead}, or raise --max_drop.",
            record,
            traced.graphs.network,
        )
    log.info("%s", told)
