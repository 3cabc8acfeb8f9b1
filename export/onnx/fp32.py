"""From a model to one ONNX file that takes raw pixels and returns the embedding: :func:`to_onnx`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arguments import ModelLike
from zoo.errors import ModelError, OptionError
from zoo.paths import given_path

if TYPE_CHECKING:
    from export.onnx.tracing import Traced

log = logging.getLogger(__name__)

TOLERANCE = 1e-4


def to_onnx(model: ModelLike, path: str | Path, images: Sequence[Any] = (), *, input: str = "pixels") -> Path:
    """Export a model as one fp32 ONNX file: raw pixels in, vector out. ``export_model`` makes other precisions.

    Input ``image``: uint8 ``(N, H, W, 3)``, RGB, any N, H and W. Output ``embedding``: float32 ``(N, dim)``. Resize
    (antialiased), crop, normalisation, network and, if the metric is cosine, L2 normalisation are inside. With
    ``input="tensor"`` the file has no preprocessing; its input ``tensor`` is float32 ``(N, 3, h, w)``, as the
    preprocessing would return it. The metadata contains architecture, dim, metric, preprocessing, data, versions and
    digests; see docs/formats.md.

    The file is checked (ONNX checker, full mode) and compared with the torch model at batch 1, 2, 3 and 5 and three
    image sizes before it appears under its name.

    Args:
        model: a model folder; in Python also a timm model in memory.
        path: the file to write.
        images: images for the comparison, of the kinds that Embedder takes; by default smooth random ones.
        input: pixels, or tensor to leave preprocessing to the caller.

    Returns:
        The path.

    Raises:
        OptionError: unknown input, or the path is a folder.
        DataError: an image for the comparison cannot be read.
        ModelError: the model cannot be exported, or an embedding differs from the model's by more than 1e-4 (of its
            largest element, if that is above 1).
    """
    from export.onnx.tracing import trace_model
    from zoo.images import require_pixels

    path = given_path(path)
    if path.is_dir():
        raise OptionError(f"{path} is a folder. Name the .onnx file to write in it.")
    shown = [require_pixels(image) for image in images]
    return write_fp32(trace_model(model), path, shown, input)


def write_fp32(traced: Traced, path: Path, images: Sequence[Any], takes: str) -> Path:
    """Write a traced model in fp32, checked and compared as in :func:`to_onnx`, and return the path."""
    from export.onnx.tracing import difference, join, metadata, save, smooth_images
    from zoo.files import replacing

    proto = join(traced.graphs, takes)
    with replacing(path) as temporary:
        save(proto, temporary, metadata(traced, takes))
        worst = difference(traced.whole, temporary, images or smooth_images(), takes)
        if not worst <= TOLERANCE:
            raise ModelError(
                f"The ONNX file of {traced.name} differs from the model by {worst:.1e} (limit {TOLERANCE:.0e}) and was "
                "not written. Another version of torch or onnxscript may export it correctly."
            )
    log.info("%s: %.2f MB, differs from torch by %.1e at most", path, path.stat().st_size / 1e6, worst)
    return path
