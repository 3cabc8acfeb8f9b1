"""A ``.tflite`` file run by LiteRT, exported or foreign."""

from __future__ import annotations

import hashlib
import logging
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ModelError, OptionError, first_line
from zoo.files import digest
from zoo.formats.onnx_metadata import read_metadata
from zoo.formats.tflite_file import facts_in
from zoo.models.facts import COSINE
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.teachers.address import Options
from zoo.teachers.base import PixelsTeacher, resize_views
from zoo.teachers.families.tower import require_library
from zoo.teachers.foreign import assumption_of_file
from zoo.teachers.runtimes.vectors import require_vectors

log = logging.getLogger(__name__)


class LiteRtTeacher(PixelsTeacher):
    """A ``.tflite`` file with one input ``(1, H, W, 3)``, float32 or uint8, and one output ``(1, D)``.

    A file that ``export`` made takes pixels 0..255 of its own size. Foreign files take pixels normalised by the options
    if they take float32, and raw pixels if they take uint8.

    Args:
        path: the file.
        options: options of an address: preprocessing for a foreign file, and metric.

    Raises:
        MissingExtraError: LiteRT is not installed.
        ModelError: the file is missing, damaged, not a LiteRT file, or has other inputs and outputs.
        OptionError: the options cannot work, or set the preprocessing of a file that defines its own.
    """

    runtime = "litert"
    path: Path

    def __init__(self, path: Path, options: Options | None = None) -> None:
        options = options or Options()
        if not path.is_file():
            raise ModelError(f"{path} does not exist. Check the path of the .tflite file.")
        self.path, self.name = path, path.name
        said = facts_in(path)
        self._interpreter = _opened(path, None)
        (given,), (found,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output, self._dtype = given["index"], found["index"], given["dtype"]
        shape = [int(side) for side in given["shape"]]
        takes = len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and self._dtype in (np.float32, np.uint8)
        if not takes or found["dtype"] != np.float32:
            raise ModelError(
                f"{path} takes {np.dtype(self._dtype)} {tuple(shape)} and gives {np.dtype(found['dtype'])}; it must "
                "take float32 or uint8 (1, H, W, 3) and give float32."
            )
        size = (shape[1], shape[2])
        ours = None if said is None else read_metadata(path, said)
        if ours is None:
            self.preprocessing = options.over(Preprocessing(input_size=size))
            if not options.says_preprocessing:
                compared = None if options.metric else COSINE
                self.notes = (assumption_of_file(path.name, self.preprocessing, compared, self._dtype == np.uint8),)
        elif options.says_preprocessing:
            raise OptionError(f"{path} says how images are prepared. Leave the options of preprocessing out.")
        else:
            self.preprocessing = ours.preprocessing
        if self.preprocessing.input_size != size:
            raise OptionError(
                f"{path} takes images of {size[0]} x {size[1]} pixels. Give #size={size[0]}x{size[1]}, or leave it out."
            )
        self.made_by_export, self.ships = ours, ours is not None
        self.metric = options.metric or (COSINE if ours is None else ours.metric)
        self.input_size = size
        self.dim = int(found["shape"][-1])
        self._prepare = Preprocess(self.preprocessing)
        identity = f"{digest(path)} {self.metric} {self.preprocessing}"
        self.digest = f"litert-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        for note in self.notes:
            log.warning("%s: %s", self.name, note)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float()
        return self.embed_resized(self._prepare.resize(batch))

    def embed_views(self, views: Tensor, indices: Tensor, images: Any) -> Tensor:
        resized = resize_views(views.cpu(), self.preprocessing.input_size)
        return torch.from_numpy(np.concatenate([self.embed_resized(view[None]) for view in resized])).to(views.device)

    def with_threads(self, threads: int) -> LiteRtTeacher:
        other = copy(self)
        other._interpreter = _opened(self.path, threads)
        return other

    def embed_resized(self, pixels: Tensor) -> np.ndarray:
        """Embed pixels 0..255 of the input's size, float32 ``(1, 3, h, w)``; return float32 ``(1, D)``."""
        if self._dtype == np.uint8:
            pixels = pixels.round().to(torch.uint8)
        elif self.made_by_export is None:
            pixels = self._prepare.normalize(pixels)
        self._interpreter.set_tensor(self._input, pixels.permute(0, 2, 3, 1).contiguous().numpy())
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT failed on {self.name} ({first_line(error)}).") from error
        found = self._interpreter.get_tensor(self._output)
        return require_vectors(found.reshape(1, -1), 1, self.dim, self.name)


def _opened(path: Path, threads: int | None) -> Any:
    """Return LiteRT's interpreter for a file, ready to run.

    Raises:
        MissingExtraError: LiteRT is not installed.
        ModelError: LiteRT does not accept the file.
    """
    require_library("ai_edge_litert", str(path))
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT does not take {path} ({first_line(error)}). Export it again.") from error
    if len(interpreter.get_input_details()) != 1 or len(interpreter.get_output_details()) != 1:
        raise ModelError(f"{path} must have one input and one output, which is the embedding.")
    return interpreter
