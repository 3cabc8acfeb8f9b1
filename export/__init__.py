"""What ships: ONNX files, validation against the teacher, reports, and the edge runtime.

Names are imported on first use, so that ``export.runtime`` needs onnxruntime, numpy and Pillow only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.benchmark.bench import bench
    from export.embedding.embed_data import embed_data
    from export.hub.folder import write_hub
    from export.hub.publish import publish
    from export.index.exporting import export_index
    from export.index.verbs import build_index, search_index
    from export.onnx.fp32 import to_onnx
    from export.onnx.inspection import inspect
    from export.parity.pack import write_parity
    from export.report.validation import Report, validate
    from export.runtime import Embedder
    from export.shipping import Exported, export_model
    from export.web.demo import demo_web

__all__ = [
    "Embedder",
    "Exported",
    "Report",
    "bench",
    "build_index",
    "demo_web",
    "embed_data",
    "export_index",
    "export_model",
    "inspect",
    "publish",
    "search_index",
    "to_onnx",
    "validate",
    "write_hub",
    "write_parity",
]

_HOME = {
    "Embedder": "export.runtime",
    "Exported": "export.shipping",
    "Report": "export.report.validation",
    "bench": "export.benchmark.bench",
    "embed_data": "export.embedding.embed_data",
    "inspect": "export.onnx.inspection",
    "export_model": "export.shipping",
    "export_index": "export.index.exporting",
    "build_index": "export.index.verbs",
    "search_index": "export.index.verbs",
    "to_onnx": "export.onnx.fp32",
    "validate": "export.report.validation",
    "demo_web": "export.web.demo",
    "publish": "export.hub.publish",
    "write_hub": "export.hub.folder",
    "write_parity": "export.parity.pack",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
