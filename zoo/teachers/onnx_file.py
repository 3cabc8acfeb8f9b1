"""An ONNX file as a teacher."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, OptionError, first_line
from zoo.formats.onnx_content import digest_of, require_intact
from zoo.formats.onnx_metadata import SCHEMA, preprocessing_in, read_metadata
from zoo.models.facts import COSINE, EUCLIDEAN
from zoo.models.preprocessing import Preprocess, Preprocessing, half
from zoo.paths import given_path
from zoo.progress import progress
from zoo.teachers.base import Teacher, resize_views
from zoo.teachers.foreign import assumption, classifier_note

log = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_LARGEST_BATCH = 4096


class OnnxTeacher(Teacher):
    """An ONNX file: one of ours (pixels in), or any with one float image input and an output ``(N, D)``.

    The input may be ``(N, 3, H, W)`` or ``(N, H, W, 3)``, float32 or float16, and of a batch size that is fixed.

    Args:
        path: the file.
        preprocessing: for a file of another make, how pixels become its input; None for ImageNet's at its own size.
        metric: None for what the file says of itself, else cosine.
    """

    def __init__(self, path: str | Path, preprocessing: Preprocessing | None = None, metric: str | None = None) -> None:
        import onnxruntime

        from zoo.sessions import open_session

        path = given_path(path)
        if not path.is_file():
            raise ModelError(f"Teacher {path} does not exist. Check the path.")
        require_intact(path)
        self._session = open_session(path, None, onnxruntime.get_available_providers(), what="Teacher ")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        metadata = self._session.get_modelmeta().custom_metadata_map
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise ModelError(f"Teacher {path} must have one image input, found {[i.name for i in inputs]}.")
        self._input, self._output = inputs[0].name, outputs[0].name
        self._takes_pixels = inputs[0].type == "tensor(uint8)"
        if inputs[0].type not in _DTYPES:
            raise ModelError(f"Teacher {path} takes {inputs[0].type}; it must take one of {', '.join(_DTYPES)}.")
        self._dtype = _DTYPES[inputs[0].type]
        batch, *shape = inputs[0].shape
        self._batch = batch if isinstance(batch, int) else None
        if self._batch is not None and not 0 < self._batch <= _LARGEST_BATCH:
            raise ModelError(f"Teacher {path} takes batches of {batch}; it must be in 1..{_LARGEST_BATCH}, or any.")
        self._channels_last = not self._takes_pixels and shape[2] == 3 and shape[0] != 3
        sides = shape[:2] if self._channels_last else shape[1:]
        self.preprocessing, said = _said(path, metadata, sides, self._takes_pixels, preprocessing)
        self._prepare = Preprocess(self.preprocessing)
        self.metric = metric or said or COSINE
        self.name = path.name
        self.digest = hashlib.sha256(f"{digest_of(path)} {self.metric} {self.preprocessing}".encode()).hexdigest()[:16]
        self.input_size = self.preprocessing.input_size
        dim = outputs[0].shape[-1] if outputs[0].shape else None
        notes = [] if "preprocessing" in metadata else [classifier_note(dim if isinstance(dim, int) else None)]
        if preprocessing is None and "preprocessing" not in metadata:
            notes.insert(0, assumption(self.preprocessing, self.metric if metric is None else None))
        self.notes = tuple(note for note in notes if note)
        for note in self.notes:
            log.warning("teacher %s: %s", self.name, note)

    def embed_images(self, images: ImageSet) -> np.ndarray:
        rows = []
        for index in progress(range(len(images)), "embedding"):
            pixels = images.pixels(index)[None]
            rows.append(self._run(pixels if self._takes_pixels else self._prepare(torch.from_numpy(pixels)).numpy()))
        return np.concatenate(rows)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        pixels = resize_views(views.cpu(), self.preprocessing.input_size)
        if self._takes_pixels:
            # The file resizes and crops by itself. A border of what it will crop away makes both leave the view alone.
            (height, width), (tall, wide) = self.preprocessing.input_size, self.preprocessing.resized_size
            top, left = half(tall - height), half(wide - width)
            border = (left, wide - width - left, top, tall - height - top)
            padded = functional.pad(pixels.round().to(torch.uint8), border)
            batch = padded.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            batch = self._prepare.normalize(pixels).numpy()
        return torch.from_numpy(self._run(batch)).to(views.device)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch as the file wants it: its data type, its layout, and its own batch size where that is fixed."""
        given = batch.astype(self._dtype, copy=False)
        if self._channels_last:
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        size = self._batch or len(given)
        parts = [given[start : start + size] for start in range(0, len(given), size)]
        missing = size - len(parts[-1])
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], missing, axis=0)])
        return np.concatenate([self._run_once(part) for part in parts])[: len(given)]

    def _run_once(self, batch: np.ndarray) -> np.ndarray:
        try:
            (embeddings,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise ModelError(f"Teacher {self.name} failed on a batch of shape {batch.shape} ({reason}).") from error
        if embeddings.ndim != 2 or len(embeddings) != len(batch):
            raise ModelError(
                f"Teacher {self.name} must give (N, D) embeddings, found shape {embeddings.shape} for "
                f"{len(batch)} images."
            )
        return np.asarray(embeddings, dtype=np.float32)


def _said(
    path: Path, metadata: dict[str, str], sides: list[Any], takes_pixels: bool, given: Preprocessing | None
) -> tuple[Preprocessing, str | None]:
    """Return preprocessing and metric as a file says them, or as they are assumed of a file of another make.

    Raises:
        ModelError: it says what cannot be, or takes bytes and says nothing.
    """
    if metadata.get("schema") == SCHEMA:
        said = read_metadata(path, metadata)
        return given or said.preprocessing, said.metric
    metric = metadata.get("metric")
    known = metric if metric in (COSINE, EUCLIDEAN) else None  # others may mean something else by it
    if given is not None:
        return given, known
    try:
        if "preprocessing" in metadata:
            return preprocessing_in(metadata), known
        if takes_pixels:
            raise ModelError(f"Teacher {path} takes bytes but has no preprocessing in its metadata. Export it anew.")
        height, width = (side if isinstance(side, int) else 224 for side in sides)
        return Preprocessing(input_size=(height, width)), known
    except (ValueError, OptionError) as error:
        raise ModelError(f"Teacher {path} cannot be given images ({first_line(error)}). Export it anew.") from error
