"""What makes a student: relaxed contrastive loss and its rivals, distillation; and the command line.

Names are imported when first used, so that ``compressor --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.distillation import distill
    from compressor.pipeline import run
    from compressor.quantization_aware import finish_quantized
    from zoo.teachers import ArrayTeacher, OnnxTeacher, Teacher, TorchTeacher, open_teacher

__all__ = [
    "ArrayTeacher",
    "OnnxTeacher",
    "Teacher",
    "TorchTeacher",
    "distill",
    "finish_quantized",
    "open_teacher",
    "run",
]

_HOME = {
    "ArrayTeacher": "zoo.teachers",
    "OnnxTeacher": "zoo.teachers",
    "Teacher": "zoo.teachers",
    "TorchTeacher": "zoo.teachers",
    "distill": "compressor.distillation",
    "finish_quantized": "compressor.quantization_aware",
    "open_teacher": "zoo.teachers",
    "run": "compressor.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
