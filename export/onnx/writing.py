"""Write fp16 and int8 files, and choose the images that files are compared on."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from export.int8.quantization import calibrate, fits_float16, to_fp16
from export.int8.schemes import MINMAX
from export.int8.selection import Chosen
from export.onnx.tracing import TENSOR, Graphs, Traced, join, metadata, save, smooth_images
from zoo.data import DataSplits
from zoo.errors import DataError, ModelError
from zoo.files import replacing
from zoo.sessions import cpu_session

log = logging.getLogger(__name__)


def write_fp16(traced: Traced, path: Path, images: Sequence[np.ndarray], takes: str) -> None:
    """Write the model in float16.

    Overflow is checked on the float32 graph: on CPUs onnxruntime computes float16 in float32, where nothing overflows.

    Args:
        traced: the model.
        path: the file to write.
        images: images to measure activations on, uint8 ``(H, W, 3)``; empty for smooth random ones.
        takes: pixels or tensor.

    Raises:
        ModelError: a weight or an activation is outside float16's range, or embeddings are not finite.
    """
    limit = float(np.finfo(np.float16).max)
    if not fits_float16(traced.graphs.network):
        raise ModelError(f"{traced.name} has weights beyond float16's range ({limit:.0f}). Ship fp32 or int8.")
    shown = (traced.whole.preprocess(torch.from_numpy(image)[None]).numpy() for image in images or smooth_images())
    ranges = calibrate(traced.graphs.network, MINMAX, shown)
    largest = max(float(np.abs(ranges[name].range_value).max()) for name in ranges)
    if not largest <= limit:
        raise ModelError(
            f"{traced.name} has activations of {largest:.0f}, beyond float16's range ({limit:.0f}). Ship fp32 or int8."
        )
    graphs = replace(traced.graphs, network=to_fp16(traced.graphs.network))
    _write(traced, graphs, path, takes, {"precision": "fp16"})


def write_int8(traced: Traced, chosen: Chosen, path: Path, takes: str) -> None:
    """Write the chosen int8 network; the metadata records how it was made."""
    entry, content = chosen.entry, chosen.content
    scheme = entry["scheme"] | {"scheme": entry["name"], "float_blocks": entry["float_blocks"]}
    judged = {name: content["judged_on"][name] for name in ("images", "of")} | {"measure": content["measure"]}
    judged |= {name: entry[name] for name in ("drop", "drop_interval")}
    scheme |= {"calibration": content["calibration"], "judged_on": judged, "target": content["target"]}
    scheme["gain"] = content["gain"]["is"]
    graphs = replace(traced.graphs, network=chosen.network)
    _write(traced, graphs, path, takes, {"precision": "int8", "quantization": json.dumps(scheme)})


def _write(traced: Traced, graphs: Graphs, path: Path, takes: str, entries: dict[str, str]) -> None:
    with replacing(path) as temporary:
        save(join(graphs, takes), temporary, metadata(traced, takes) | entries)
        session = cpu_session(temporary, threads=None)
        given = smooth_images(1)[0][None]
        if takes == TENSOR:
            given = traced.whole.preprocess(torch.from_numpy(given)).numpy()
        (embedding,) = session.run(None, {session.get_inputs()[0].name: given})
        if not np.isfinite(embedding).all():
            kind = entries["precision"]
            raise ModelError(f"{traced.name} gives embeddings that are not finite in {kind}. Ship fp32.")
    log.info("%s: %.2f MB", path, path.stat().st_size / 1e6)


def some_images(splits: DataSplits | None, count: int = 5) -> list[np.ndarray]:
    """Return readable training images, spread over the classes, uint8 ``(H, W, 3)``; none without data."""
    found: list[np.ndarray] = []
    if splits is not None and len(splits.train):
        spaced = np.unique(np.linspace(0, len(splits.train) - 1, 10 * count).astype(int))
        for index in (index for start in range(10) for index in spaced[start::10]):
            with contextlib.suppress(DataError):  # unreadable images were reported in training
                found.append(splits.train.pixels(index))
            if len(found) == count:
                break
    return found
