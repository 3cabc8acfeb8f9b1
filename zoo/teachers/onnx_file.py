"""An ONNX file as a teacher."""

from __future__ import annotations

import hashlib
import logging
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, OptionError, UserError, first_line
from zoo.formats.onnx_content import digest_of, require_intact
from zoo.formats.onnx_metadata import SCHEMA, OnnxMetadata, preprocessing_in, read_metadata
from zoo.models.facts import COSINE, EUCLIDEAN
from zoo.models.preprocessing import Preprocess, Preprocessing, half
from zoo.paths import given_path
from zoo.sessions import CPU, open_session
from zoo.teachers.address import LARGEST_BATCH, Options
from zoo.teachers.base import PixelsTeacher, resize_views
from zoo.teachers.families.image_processor import preprocessing_beside
from zoo.teachers.foreign import assumption_of_file, classifier_note
from zoo.teachers.onnx_outputs import (
    chosen_output,
    described,
    fillers,
    image_input,
    pooled,
    require_image_side,
)

log = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxTeacher(PixelsTeacher):
    """An exported ONNX file (pixels in), or any with one image input and an output that depends on the image only.

    The input may be ``(N, 3, H, W)`` or ``(N, H, W, 3)``, with a fixed or dynamic batch size. It may be normalised
    float32 or float16, or uint8, which the file normalises itself. Other inputs, such as CLIP's text, are filled with
    dummy values, since they do not matter.

    Args:
        path: the file.
        preprocessing: for a foreign file, how pixels become its input; None to read it from its metadata, or from a
            ``preprocessor_config.json`` beside it or in the folder above, or else use ImageNet's at the file's size.
        metric: None for the metric in the file's metadata, else cosine.
        output: the output to use; None for the first that exists of image_embeds, embedding, embeddings,
            sentence_embedding and pooler_output, or else the first with vectors.
        pooling: how tokens ``(N, T, D)`` become a vector: "cls" for the first, or "mean".
        options: options of an address, which override preprocessing and metric; ``layout`` if the position of the 3
            does not show it, and ``batch_size`` for views.

    Attributes:
        path: the file.
        output: the output that is used.
        dim: dimensions of its vectors, or None if the file does not define them.
        batch: the file's fixed batch size, or None.
        takes_pixels: whether it is an exported file that preprocesses images itself.
        takes_bytes: whether it is a foreign file that takes uint8 images of its own size.

    Raises:
        ModelError: the file is missing, broken or damaged, or takes no images.
        OptionError: there is no such output, it depends on more than the image, or needs a pooling.
    """

    runtime = "onnxruntime"
    path: Path

    def __init__(
        self,
        path: str | Path,
        preprocessing: Preprocessing | None = None,
        metric: str | None = None,
        *,
        output: str | None = None,
        pooling: str | None = None,
        options: Options | None = None,
    ) -> None:
        import onnxruntime

        path, options = given_path(path), options or Options()
        if not path.is_file():
            raise ModelError(f"Teacher {path} does not exist. Check the path.")
        require_intact(path)
        self._session = open_session(path, None, onnxruntime.get_available_providers(), what="Teacher ")
        self._inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.made_by_export = read_metadata(path, metadata) if metadata.get("schema") == SCHEMA else None
        self._image = image_input(path, self._inputs)
        taken = chosen_output(path, outputs, output, pooling)
        self.output, self._pooling = taken.name, pooling
        require_image_side(path, taken.name, [each.name for each in self._inputs if each is not self._image])
        prepares = "preprocessing" in metadata
        self.takes_pixels = self._image.type == "tensor(uint8)" and prepares
        self.takes_bytes = self._image.type == "tensor(uint8)" and not prepares
        if self._image.type not in _DTYPES:
            raise ModelError(f"Teacher {path} takes {self._image.type}; it must take one of {', '.join(_DTYPES)}.")
        self._dtype = _DTYPES[self._image.type]
        batch, *shape = self._image.shape
        self.batch = batch if isinstance(batch, int) else None
        if self.batch is not None and not 0 < self.batch <= LARGEST_BATCH:
            raise ModelError(f"Teacher {path} takes batches of {batch}; it must be in 1..{LARGEST_BATCH}, or any.")
        self._batch_size = options.batch_size
        self._channels_last = not self.takes_pixels and (
            options.layout == "nhwc" if options.layout else shape[2] == 3 and shape[0] != 3
        )
        sides = shape[:2] if self._channels_last else shape[1:]
        if self.takes_bytes and (options.mean or options.std):
            raise OptionError(f"Teacher {path} takes bytes, which it normalises itself; leave mean and std out.")
        self.preprocessing, said, known = _said(
            path, metadata, self.made_by_export, sides, self.takes_pixels, preprocessing, options
        )
        if self.takes_bytes:
            self.preprocessing = replace(self.preprocessing, mean=(0.0,) * 3, std=(1 / 255,) * 3)
        _require_size(path, sides, self.preprocessing.input_size)
        self._prepare = Preprocess(self.preprocessing)
        metric = metric or options.metric
        self.metric = metric or said or COSINE
        chosen = "" if output is None and pooling is None else "#" + ":".join(filter(None, (self.output, pooling)))
        self.path, self.name = path, f"{path.name}{chosen}"
        identity = f"{digest_of(path)} {self.metric} {self.preprocessing}{chosen and f' {chosen}'}"
        self.digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.input_size = self.preprocessing.input_size
        dim = taken.shape[-1] if taken.shape else None
        self.dim = dim if isinstance(dim, int) else None
        notes = [] if prepares else [classifier_note(self.dim)]
        if not known:
            compared = self.metric if metric is None else None
            notes.insert(0, assumption_of_file(path.name, self.preprocessing, compared, self.takes_bytes))
        if output is None and len(outputs) > 1:
            others = ", ".join(described(each) for each in outputs if each is not taken)
            notes.append(f"its output {self.output} is taken; #NAME takes another of {others}.")
        self.notes = tuple(note for note in notes if note)
        for note in self.notes:
            log.warning("teacher %s: %s", self.name, note)

    def with_threads(self, threads: int) -> OnnxTeacher:
        """Return a copy of this teacher that runs on the CPU with this number of threads per inference."""
        other = copy(self)
        other._session = open_session(self.path, threads, [CPU], what="Teacher ")
        return other

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one image, uint8 ``(H, W, 3)``; float32 ``(1, D)``."""
        batch = pixels[None]
        return self.run(batch if self.takes_pixels else self._prepare(torch.from_numpy(batch)).numpy())

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        pixels = resize_views(views.cpu(), self.preprocessing.input_size)
        if self.takes_pixels:
            # The file resizes and crops images itself. With a border that it will crop away, the view stays unchanged.
            (height, width), (tall, wide) = self.preprocessing.input_size, self.preprocessing.resized_size
            top, left = half(tall - height), half(wide - width)
            border = (left, wide - width - left, top, tall - height - top)
            padded = functional.pad(pixels.round().to(torch.uint8), border)
            batch = padded.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            batch = self._prepare.normalize(pixels).numpy()
        return torch.from_numpy(self.run(batch)).to(views.device)

    def given_to_network(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return the session's inputs for a preprocessed batch, float ``(N, 3, H, W)``, or for pixels."""
        if self.takes_bytes:
            batch = batch.round().clip(0, 255)
        given = batch.astype(self._dtype, copy=False)
        if self._channels_last:
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        return {self._image.name: given, **fillers(self._inputs, self._image, len(batch))}

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, converted to the file's data type and layout, and split into its batch size if fixed."""
        size = self.batch or self._batch_size or len(batch)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        if self.batch and (missing := size - len(parts[-1])):
            parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], missing, axis=0)])
        return np.concatenate([self._run_once(part) for part in parts])[: len(batch)]

    def _run_once(self, batch: np.ndarray) -> np.ndarray:
        try:
            (found,) = self._session.run([self.output], self.given_to_network(batch))
        except UserError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise ModelError(f"Teacher {self.name} failed on a batch of shape {batch.shape} ({reason}).") from error
        embeddings = pooled(found, self._pooling)
        if embeddings.ndim != 2 or len(embeddings) != len(batch):
            raise ModelError(
                f"Teacher {self.name} must give (N, D) embeddings, found shape {embeddings.shape} for "
                f"{len(batch)} images."
            )
        return np.asarray(embeddings, dtype=np.float32)


def _require_size(path: Path, sides: list[Any], size: tuple[int, int]) -> None:
    """Refuse preprocessing to a size other than the file's."""
    fixed = [side for side in sides if isinstance(side, int)]
    if len(fixed) == 2 and tuple(fixed) != tuple(size):
        raise OptionError(
            f"Teacher {path} takes images of {fixed[0]} x {fixed[1]} pixels, and its preprocessing makes {size[0]} x "
            f"{size[1]}. Give #size={fixed[0]}x{fixed[1]}."
        )


def _said(
    path: Path,
    metadata: dict[str, str],
    ours: OnnxMetadata | None,
    sides: list[Any],
    takes_pixels: bool,
    given: Preprocessing | None,
    options: Options,
) -> tuple[Preprocessing, str | None, bool]:
    """Return the preprocessing and metric of a file, and whether the preprocessing is known, not assumed.

    Raises:
        ModelError: the file's metadata, or the configuration beside it, is invalid.
        OptionError: options are given for a file that preprocesses images itself, or cannot work.
    """
    has_options = options.says_preprocessing
    if has_options and takes_pixels:
        raise OptionError(f"Teacher {path} prepares its images itself; leave the options of preprocessing out.")
    metric = metadata.get("metric")
    said = metric if metric in (COSINE, EUCLIDEAN) else None  # foreign files may use the key for something else
    found = given
    if ours is not None:
        found, said = given or ours.preprocessing, ours.metric
    elif found is None:
        try:
            if "preprocessing" in metadata:
                found = preprocessing_in(metadata)
            else:
                found = preprocessing_beside([path.parent, path.parent.parent], lenient=has_options)
        except (ValueError, OptionError) as error:
            raise ModelError(
                f"Teacher {path} cannot be given images ({first_line(error)}). Export it again."
            ) from error
    if found is not None:
        return options.over(found), said, True
    height, width = (side if isinstance(side, int) else 224 for side in sides)
    try:
        return options.over(Preprocessing(input_size=(height, width))), said, has_options
    except OptionError as error:
        if has_options:
            raise
        raise ModelError(f"Teacher {path} cannot be given images ({first_line(error)}). Export it again.") from error
