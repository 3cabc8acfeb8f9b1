"""What ships: ONNX files, validation against the teacher, reports, and the edge runtime.

Names are imported when first used, so that ``export.runtime`` needs onnxruntime, numpy and Pillow only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.graph import to_onnx
    from export.index import build_index, search_index
    from export.runtime import Embedder
    from export.validation import Report, validate

__all__ = ["Embedder", "Report", "build_index", "search_index", "to_onnx", "validate"]

_HOME = {
    "Embedder": "export.runtime",
    "Report": "export.validation",
    "build_index": "export.index",
    "search_index": "export.index",
    "to_onnx": "export.graph",
    "validate": "export.validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
