"""An ONNX file run by OpenVINO."""

from __future__ import annotations

import logging
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ModelError, first_line
from zoo.teachers.families.tower import require_library
from zoo.teachers.onnx_file import OnnxTeacher

log = logging.getLogger(__name__)


class OpenVinoTeacher(OnnxTeacher):
    """An ONNX file, exported or foreign, that OpenVINO runs on the CPU.

    Inputs and preprocessing are the same as for OnnxTeacher. OpenVINO is set to compute in float32: by default it uses
    bfloat16 or float16 if the processor supports them. Version 2026.4 ignores the antialiasing of Resize, which is
    noted for files that take pixels.

    Args:
        path: the file.
        options: the same as for OnnxTeacher.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: the file is missing or damaged, or OpenVINO does not accept it.
        OptionError: as for OnnxTeacher.
    """

    runtime = "openvino"

    def __init__(self, path: str | Path, **options: Any) -> None:
        require_library("openvino", f"openvino:{path}")
        super().__init__(path, **options)
        self.name = f"openvino:{self.name}"
        self.digest = f"openvino-{self.digest}"
        self.ships = self.made_by_export is not None
        if self.takes_pixels:
            note = (
                "OpenVINO resizes images without antialiasing. Export with --input tensor, and prepare them elsewhere."
            )
            self.notes = (*self.notes, note)
            log.warning("%s: %s", self.name, note)
        self._session = _OpenVino(self.path, None)

    def with_threads(self, threads: int) -> OpenVinoTeacher:
        other = copy(self)
        other._session = _OpenVino(self.path, threads)
        return other


class _OpenVino:
    """A compiled file with the interface of an onnxruntime session."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import openvino

        asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        asked |= {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", asked)
        except Exception as error:  # OpenVINO's exceptions share no base class
            raise ModelError(f"OpenVINO does not take {path} ({first_line(error)}).") from error

    def run(self, outputs: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run the model, and return the named outputs."""
        found = self._compiled(given)
        return [np.array(found[name]) for name in outputs]
