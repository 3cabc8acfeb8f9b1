"""Teachers: backbones, data, metric-learning losses, training and retrieval measures.

Names are imported when first used, so importing one module does not load torch needlessly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.data import DataSplits, ImageSet, load_data
    from zoo.data.checking.check import check
    from zoo.errors import DataError, ModelError, OptionError, RefusedError, UserError
    from zoo.models.embedding import embed
    from zoo.models.folder import load_model, save_model
    from zoo.models.making import create_model, pretrained_available
    from zoo.models.preprocessing import Preprocessing
    from zoo.retrieval.label_measures import measure_by_labels
    from zoo.retrieval.measures import measure
    from zoo.training.train import train

__all__ = [
    "DataError",
    "DataSplits",
    "ImageSet",
    "ModelError",
    "OptionError",
    "Preprocessing",
    "RefusedError",
    "UserError",
    "check",
    "create_model",
    "embed",
    "load_data",
    "load_model",
    "measure",
    "measure_by_labels",
    "pretrained_available",
    "save_model",
    "train",
]

_HOME = {
    "DataError": "zoo.errors",
    "DataSplits": "zoo.data",
    "ImageSet": "zoo.data",
    "ModelError": "zoo.errors",
    "OptionError": "zoo.errors",
    "RefusedError": "zoo.errors",
    "Preprocessing": "zoo.models.preprocessing",
    "UserError": "zoo.errors",
    "check": "zoo.data.checking.check",
    "create_model": "zoo.models.making",
    "embed": "zoo.models.embedding",
    "load_data": "zoo.data",
    "load_model": "zoo.models.folder",
    "measure": "zoo.retrieval.measures",
    "measure_by_labels": "zoo.retrieval.label_measures",
    "pretrained_available": "zoo.models.making",
    "save_model": "zoo.models.folder",
    "train": "zoo.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
