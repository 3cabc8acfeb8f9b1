"""What ships: ONNX files, validation against the teacher, reports, and the edge runtime.

Names are imported when first used, so that ``export.runtime`` needs onnxruntime, numpy and Pillow only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.benchmark import bench
    from export.graph import to_onnx
    from export.index import build_index, search_index
    from export.inspection import inspect
    from export.runtime import Embedder
    from export.shipping import Exported, export_model
    from export.validation import Report, validate

__all__ = [
    "Embedder",
    "Exported",
    "Report",
    "bench",
    "build_index",
    "export_model",
    "inspect",
    "search_index",
    "to_onnx",
    "validate",
]

_HOME = {
    "Embedder": "export.runtime",
    "Exported": "export.shipping",
    "Report": "export.validation",
    "bench": "export.benchmark",
    "inspect": "export.inspection",
    "export_model": "export.shipping",
    "build_index": "export.index",
    "search_index": "export.index",
    "to_onnx": "export.graph",
    "validate": "export.validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
