"""ONNX files of another make, asked as :class:`export.runtime.Embedder` is where files are timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import Embedder
from zoo.errors import ForeignModelError, ModelError
from zoo.teachers.address import path_of


class ForeignFile:
    """An ONNX file of another make: prepared arrays in, vectors out.

    Args:
        file: a path, or one with an output and options; see docs/how-to/own-teacher.md.
        threads: of one inference.

    Raises:
        ModelError: it is missing or broken, or is no ONNX file.
        OptionError: an output or option cannot be.
    """

    def __init__(self, file: str | Path, threads: int) -> None:
        from zoo.teachers.onnx_file import OnnxTeacher
        from zoo.teachers.opening import open_teacher

        opened = open_teacher(file)
        if not isinstance(opened, OnnxTeacher):
            raise ModelError(
                f"{file} is not an ONNX file, and bench times no other. validate takes models of any kind."
            )
        self._network = opened.with_threads(threads)
        self.path = opened.path
        self.metadata: dict[str, Any] = {}
        self.precision = ""
        self.input = "tensor"
        self.input_size = opened.preprocessing.input_size
        self.one_by_one = False
        image = np.zeros((1, 3, *self.input_size), np.float32)
        self.dim = int(self._network.run(image).shape[1])

    def __call__(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Embed prepared arrays, float32 ``(N, 3, H, W)``, in one inference."""
        return self._network.run(images)

    def inputs(self, batch: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and data type of what each input is given for a batch."""
        prepared = np.zeros((self._network.batch or batch, 3, *self.input_size), np.float32)
        given = self._network.given_to_network(prepared)
        return {name: (value.shape, str(value.dtype)) for name, value in given.items()}

    @property
    def outputs(self) -> list[str]:
        """The output that is taken."""
        return [self._network.output]


def open_file(file: str | Path, threads: int) -> Embedder | ForeignFile:
    """Open a file made by ``export``, or one of another make.

    Raises:
        ModelError: it is missing or broken.
        OptionError: an output or option cannot be.
    """
    path = path_of(file)
    if path is not None:
        try:
            return Embedder(path, threads=threads)
        except ForeignModelError:
            pass
    return ForeignFile(file, threads)


def inputs_and_outputs(
    file: Embedder | ForeignFile, image: np.ndarray, batch: int
) -> tuple[dict[str, tuple[tuple[int, ...], str]], list[str]]:
    """Return shape and data type of what a file's inputs are given in one inference, and what is asked of it.

    Args:
        file: the file, opened.
        image: one image as it takes it.
        batch: how many of it.
    """
    if isinstance(file, ForeignFile):
        return file.inputs(batch), file.outputs
    count = 1 if file.one_by_one else batch
    return {"image" if file.input == "pixels" else "tensor": ((count, *image.shape), str(image.dtype))}, []
