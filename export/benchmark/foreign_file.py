"""ONNX files that this project did not export, called like :class:`export.runtime.Embedder` to be timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import Embedder
from zoo.errors import ForeignModelError, ModelError
from zoo.teachers.address import path_of


class ForeignFile:
    """An ONNX file that this project did not export: preprocessed arrays in, vectors out.

    Args:
        file: a path, optionally with an output and options; see docs/how-to/own-teacher.md.
        threads: threads per inference.

    Raises:
        ModelError: the file is missing or broken, or is not an ONNX file.
        OptionError: an output or option is invalid.
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
        """Embed preprocessed arrays, float32 ``(N, 3, H, W)``, in one inference."""
        return self._network.run(images)

    def inputs(self, batch: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the shape and data type of each input for a batch."""
        prepared = np.zeros((self._network.batch or batch, 3, *self.input_size), np.float32)
        given = self._network.given_to_network(prepared)
        return {name: (value.shape, str(value.dtype)) for name, value in given.items()}

    @property
    def outputs(self) -> list[str]:
        """The name of the output that holds the embedding, in a list."""
        return [self._network.output]


def open_file(file: str | Path, threads: int) -> Embedder | ForeignFile:
    """Open an ONNX file, whether ``export`` made it or not.

    Raises:
        ModelError: the file is missing or broken.
        OptionError: an output or option is invalid.
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
    """Return the shape and data type of each input in one inference, and the outputs to request (empty for all).

    Args:
        file: the opened file.
        image: one image in the form that the file takes.
        batch: images in the batch.
    """
    if isinstance(file, ForeignFile):
        return file.inputs(batch), file.outputs
    count = 1 if file.one_by_one else batch
    return {"image" if file.input == "pixels" else "tensor": ((count, *image.shape), str(image.dtype))}, []
