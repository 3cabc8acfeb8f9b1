"""Defaults that depend on the weights a network begins with. An option that is not given (null) takes them.

Random weights have everything to learn, pretrained ones much to lose. What suits the latter was chosen on validation
classes, of photographs at 128 pixels (benchmarks/pretrained); rates for random weights come of this project's other
benchmarks, on convolutional networks, and stand in ``zoo.training.options``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from zoo.training.options import SUBJECTS
from zoo.training.students import with_folder

AUTO = "auto"  # of pool, where null means the architecture's own

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
_OF_VERB: dict[str, dict[str, tuple[Any, Any]]] = {  # name: with random weights, with pretrained ones
    "train": {"epochs": (40, 10)},
    "distill": {"epochs": (90, 15), "metric": (None, "cosine")},
}


def filled(verb: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verb's options with the defaults that suit its weights where none is given.

    Args:
        verb: "train" or "distill".
        options: by name, ``arch`` and ``pretrained`` among them.

    Raises:
        ModelError: ``arch`` is a folder that holds no model.
        OptionError: views depend on the loss, and there is no such loss.
    """
    options = with_folder(options)
    pretrained = bool(options["pretrained"])
    both = {name: (_RANDOM[name], value) for name, value in _PRETRAINED.items()}
    result = dict(options)
    for name, values in (both | _OF_VERB[verb]).items():
        if name in result and (result[name] is None if name != "pool" else result[name] == AUTO):
            result[name] = values[pretrained]
    if result.get("augment", "") is None:
        from zoo.losses import CONTINUOUS, find_loss, labels_of  # of torch, which --help does without

        result["augment"] = "mild" if labels_of(find_loss(result["loss"])) == CONTINUOUS else _RANDOM["augment"]
    return result
