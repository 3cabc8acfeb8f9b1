"""Defaults that depend on the initial weights. Options that are not given (null) take them.

Random weights have everything to learn, pretrained ones much to lose. The values for pretrained weights were chosen on
validation classes of photographs at 128 pixels (benchmarks/pretrained). Those for random weights come from this
project's other benchmarks, on convolutional networks, and are in ``zoo.training.options``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from zoo.training.options import SUBJECTS
from zoo.training.students import with_folder

AUTO = "auto"  # for pool, because null means the architecture's own

_PRETRAINED: dict[str, Any] = {
    "pool": None,
    "lr": 1e-4,
    "proxy_lr_factor": 100.0,
    "min_crop": 0.4,
    "freeze_batchnorm": True,
    "layer_decay": 1.0,
    "fit_head": True,
    "average_start": True,
}
_RANDOM = {each.name: each.default for subject in SUBJECTS.values() for each in fields(subject)}
_OF_VERB: dict[str, dict[str, tuple[Any, Any]]] = {  # name: (for random weights, for pretrained ones)
    "train": {"epochs": (40, 10)},
    "distill": {"epochs": (90, 15), "metric": (None, "cosine")},
}


def filled(verb: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verb's options, with missing values replaced by the defaults for its weights.

    Args:
        verb: "train" or "distill".
        options: values by name, including ``arch`` and ``pretrained``.

    Raises:
        ModelError: ``arch`` is a folder that holds no model.
        OptionError: ``augment`` depends on the loss, and there is no such loss.
    """
    options = with_folder(options)
    pretrained = bool(options["pretrained"])
    both = {name: (_RANDOM[name], value) for name, value in _PRETRAINED.items()}
    result = dict(options)
    for name, values in (both | _OF_VERB[verb]).items():
        if name in result and (result[name] is None if name != "pool" else result[name] == AUTO):
            result[name] = values[pretrained]
    if result.get("augment", "") is None:
        from zoo.losses import CONTINUOUS, find_loss, labels_of  # imports torch, which --help does not need

        result["augment"] = "mild" if labels_of(find_loss(result["loss"])) == CONTINUOUS else _RANDOM["augment"]
    return result
