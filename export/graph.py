"""From a model to one ONNX file that takes raw pixels and gives the embedding: :func:`to_onnx`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.arguments import ModelLike
from zoo.errors import ModelError, first_line

log = logging.getLogger(__name__)

TOLERANCE = 1e-4


def to_onnx(model: ModelLike, path: str | Path, images: Sequence[Any] = ()) -> Path:
    """Export a model as one ONNX file: raw pixels in, vector out.

    Input ``image``: uint8 ``(N, H, W, 3)``, RGB, any N, H and W. Output ``embedding``: float32 ``(N, dim)``. Resize
    (antialiased), crop, normalisation, network and, where the metric is cosine, L2 normalisation are inside. The
    metadata carries architecture, dim, metric, preprocessing, data, versions and digests; see docs/formats.md.

    The file is checked (ONNX checker, full mode) and compared with the torch model at batch 1, 2, 3 and 5 and three
    image sizes before it appears under its name.

    Args:
        model: a model folder; in Python also a timm model in memory.
        path: the file to write.
        images: uint8 ``(H, W, 3)`` images to compare on; none for smooth random ones.

    Returns:
        The path.

    Raises:
        ModelError: the model cannot be exported, or an embedding differs from the model's by more than 1e-4 (of its
            largest element, where that is above 1).
    """
    import onnx

    from export.tracing import difference, metadata, pixels_to_vector, smooth_images, trace
    from zoo.files import replacing
    from zoo.models import load_model

    path = Path(path)
    folder = Path(model) if isinstance(model, str | Path) else None
    name = type(model).__name__ if folder is None else str(folder)
    network = load_model(model) if isinstance(model, str | Path) else model
    whole = pixels_to_vector(network)
    log.info("exporting %s", name)
    try:
        proto = trace(whole)
    except Exception as error:  # the exporter raises many kinds
        reason = first_line(error)
        raise ModelError(f"Cannot export {name} to ONNX: {reason}") from error
    for key, value in metadata(network, folder, proto).items():
        proto.metadata_props.add(key=key, value=value)
    with replacing(path) as temporary:
        onnx.save(proto, temporary)
        onnx.checker.check_model(str(temporary), full_check=True)
        worst = difference(whole, temporary, images or smooth_images())
        if not worst <= TOLERANCE:
            raise ModelError(
                f"The ONNX file of {name} differs from the model by {worst:.1e} (limit {TOLERANCE:.0e}) and was not "
                "written. Another version of torch or onnxscript may export it right."
            )
    log.info("%s: %.2f MB, differs from torch by %.1e at most", path, path.stat().st_size / 1e6, worst)
    return path
