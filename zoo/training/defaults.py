"""Defaults that depend on the weights a network begins with. An option that is not given (null) takes them.

Random weights have everything to learn, pretrained ones much to lose. What suits the latter was chosen on validation
classes, of photographs at 128 pixels (benchmarks/pretrained); rates for random weights come of this project's other
benchmarks, on convolutional networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AUTO = "auto"  # of pool, where null means the architecture's own

_BOTH: dict[str, tuple[Any, Any]] = {  # name: with random weights, with pretrained ones
    "pool": ("avgmax", None),
    "lr": (3e-3, 1e-4),
    "proxy_lr_factor": (30.0, 100.0),
    "min_crop": (0.2, 0.4),
    "freeze_batchnorm": (False, True),
    "layer_decay": (1.0, 1.0),
    "fit_head": (False, True),
    "average_start": (False, True),
}
_OF_VERB: dict[str, dict[str, tuple[Any, Any]]] = {
    "train": {"epochs": (40, 10)},
    "distill": {"epochs": (90, 15), "metric": (None, "cosine")},
}


def filled(verb: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verb's options with the defaults that suit its weights where none is given.

    Args:
        verb: "train" or "distill".
        options: by name, ``pretrained`` among them.
    """
    column = 1 if options["pretrained"] else 0
    result = dict(options)
    for name, values in (_BOTH | _OF_VERB[verb]).items():
        if name in result and (result[name] is None if name != "pool" else result[name] == AUTO):
            result[name] = values[column]
    return result
