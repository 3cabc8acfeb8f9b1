"""Training of students by distillation, with relaxed contrastive loss and alternatives; and the command line.

Names are imported on first use, so that ``compressor --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.distillation import distill
    from compressor.int8_finish.quantization_aware import finish_quantized
    from compressor.int8_finish.shipping import ship
    from compressor.pipeline import run
    from zoo.teachers.base import Teacher
    from zoo.teachers.onnx_file import OnnxTeacher
    from zoo.teachers.opening import open_teacher
    from zoo.teachers.ready import ArrayTeacher
    from zoo.teachers.runtimes.function import FunctionTeacher
    from zoo.teachers.torch_module import TorchTeacher

__all__ = [
    "ArrayTeacher",
    "FunctionTeacher",
    "OnnxTeacher",
    "Teacher",
    "TorchTeacher",
    "distill",
    "finish_quantized",
    "open_teacher",
    "run",
    "ship",
]

_HOME = {
    "ArrayTeacher": "zoo.teachers.ready",
    "FunctionTeacher": "zoo.teachers.runtimes.function",
    "OnnxTeacher": "zoo.teachers.onnx_file",
    "Teacher": "zoo.teachers.base",
    "TorchTeacher": "zoo.teachers.torch_module",
    "distill": "compressor.distillation",
    "finish_quantized": "compressor.int8_finish.quantization_aware",
    "open_teacher": "zoo.teachers.opening",
    "run": "compressor.pipeline",
    "ship": "compressor.int8_finish.shipping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
