"""The edge runtime: an ONNX file in, embeddings out. Needs onnxruntime, numpy and Pillow only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from zoo.errors import DataError, ModelError, first_line
from zoo.images import read_pixels

ImageLike = str | Path | Image.Image | np.ndarray


class Embedder:
    """Embeds images with an ONNX file made by ``to_onnx``.

    Args:
        path: the file.
        threads: of one inference; None for all cores.
        providers: onnxruntime's execution providers, best first.

    Attributes:
        dim: dimensions of the embedding.
        metric: how to compare embeddings: "cosine" (they are L2-normalised: use the dot product) or "euclidean".
        precision: of the weights, such as "fp32".
        input_size: height and width that the network works at, pixels.
        metadata: all that the file says of itself.

    Raises:
        ModelError: the file is missing, broken, or was not made by ``to_onnx``.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"{path} does not exist. Check the path of the ONNX file.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise ModelError(
                f"{path} is not an ONNX file that onnxruntime loads ({reason}). Export it anew."
            ) from error
        self.metadata: dict[str, Any] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = self._session.get_inputs()
        if self.metadata.get("schema") != "1" or [(i.name, i.type) for i in inputs] != [("image", "tensor(uint8)")]:
            raise ModelError(
                f"{path} was not made by to_onnx: it lacks its metadata or its input image. Export it anew."
            )
        self.path = path
        self.dim = int(self.metadata["dim"])
        self.metric = str(self.metadata["metric"])
        self.precision = str(self.metadata["precision"])
        _, height, width = json.loads(self.metadata["preprocessing"])["input_size"]
        self.input_size = (int(height), int(width))

    def __call__(self, images: ImageLike | Iterable[ImageLike], batch_size: int = 32) -> np.ndarray:
        """Embed one image or several.

        Args:
            images: a path, a PIL image or a uint8 array ``(H, W)``, ``(H, W, 1 or 3 or 4)``; or several of them, or one
                array ``(N, H, W, 3)``. Files are turned as EXIF says; transparent images are laid on white.
            batch_size: most images in one inference; only neighbours of equal size share one.

        Returns:
            float32 ``(dim,)`` for one image, ``(N, dim)`` for several.

        Raises:
            DataError: an image cannot be read; names it.
        """
        if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim <= 3):
            row: np.ndarray = self._embed([_pixels(images)])[0]
            return row
        rows: list[np.ndarray] = []
        batch: list[np.ndarray] = []
        for image in images:
            pixels = _pixels(image)
            if batch and (len(batch) == batch_size or pixels.shape != batch[0].shape):
                rows.append(self._embed(batch))
                batch = []
            batch.append(pixels)
        if batch:
            rows.append(self._embed(batch))
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def _embed(self, batch: list[np.ndarray]) -> np.ndarray:
        (embeddings,) = self._session.run(["embedding"], {"image": np.stack(batch)})
        return np.asarray(embeddings, dtype=np.float32)


def _pixels(image: ImageLike) -> np.ndarray:
    try:
        return read_pixels(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = image if isinstance(image, str | Path) else type(image).__name__
        raise DataError(f"Image {name} cannot be read ({error}). Mend or remove it.") from error
