"""The metric-learning losses that train teachers: one loss, one file.

A loss is a module made as ``Loss(num_classes, dim, **options)`` and called as ``loss(embeddings, labels)`` with
``(N, D)`` embeddings, not normalised, and int64 ``(N,)`` labels; it returns a scalar. Its own parameters whose name
ends in ``proxies`` are trained with the proxies' learning rate, others with the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from zoo.errors import OptionError, did_you_mean

LOSSES: dict[str, str] = {"proxy_anchor": "zoo.losses.proxy_anchor:ProxyAnchorLoss"}


def create_loss(name: str, known: Mapping[str, str] = LOSSES, **options: Any) -> nn.Module:
    """Make a loss by name.

    Args:
        name: one of the names in ``known``, or ``module:Class`` for a loss of one's own.
        known: name to ``module:Class``.
        options: given to the class.

    Raises:
        OptionError: no such loss, or it does not take an option.
    """
    try:
        return find_loss(name, known)(**options)
    except TypeError as error:
        raise OptionError(f"Loss {name!r} cannot be made with {sorted(options)}: {error}.") from error


def find_loss(name: str, known: Mapping[str, str] = LOSSES) -> type[nn.Module]:
    """Return the class of a loss by name.

    Args:
        name: one of the names in ``known``, or ``module:Class`` for a loss of one's own.
        known: name to ``module:Class``.

    Raises:
        OptionError: no such loss.
    """
    target = known.get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not colon:
        raise OptionError(
            f"Unknown loss {name!r}; known are {', '.join(known)}, or module:Class for your own."
            f"{did_you_mean(name, known)}"
        )
    try:
        loss_class = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"Loss {name!r} cannot be imported ({error}). Check the module's name and PYTHONPATH."
        ) from error
    if not (isinstance(loss_class, type) and issubclass(loss_class, nn.Module)):
        raise OptionError(f"Loss {name!r} is not a torch.nn.Module.")
    return loss_class
