"""The metric-learning losses that train teachers, one per file.

A loss is a module that returns a scalar. Its class attribute ``labels`` names the labels it learns from:

* "classes", the default: made as ``Loss(num_classes, dim, **options)`` and called as ``loss(embeddings, labels)`` with
  ``(N, D)`` embeddings, not normalised, and int64 ``(N,)`` labels. Parameters whose name ends in ``proxies`` train with
  the proxies' learning rate, others with the model's times the attribute ``loss_lr_factor``, 1 by default. Its methods
  ``set_epoch`` and ``diagnose``, if any, are called; see docs/extending.md.
* "continuous": made as ``Loss(**options)`` and called as ``loss(anchor, neighbours, label_distances)`` with embeddings
  ``(D,)`` and ``(M, D)``, not normalised, and float ``(M,)`` distances between the labels of the anchor and the others.

The class attribute ``metric``, "cosine" by default, says how the embeddings are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from torch import Tensor, is_grad_enabled, nn

from zoo.errors import OptionError, did_you_mean, shown

LOSSES: dict[str, str] = {
    "proxy_anchor": "zoo.losses.proxy_anchor:ProxyAnchorLoss",
    "proxy_nca": "zoo.losses.proxy_nca:ProxyNCALoss",
    "normalized_softmax": "zoo.losses.normalized_softmax:NormalizedSoftmaxLoss",
    "novel_classes": "zoo.losses.novel_classes:NovelClassesLoss",
    "log_ratio": "zoo.losses.log_ratio:LogRatioLoss",
    "dense_triplet": "zoo.losses.dense_triplet:DenseTripletLoss",
    "binary_triplet": "zoo.losses.binary_triplet:BinaryTripletLoss",
}
CLASSES, CONTINUOUS = "classes", "continuous"
_NUMBER = ((int, float), "a number")
_KINDS: dict[str, tuple[Any, str]] = {"int": _NUMBER, "float": _NUMBER, "str": (str, "text")}  # by annotation
_KINDS |= dict.fromkeys(("Mapping", "dict"), (Mapping, "options by name"))
_LARGEST = 10**9


def create_loss(name: str, known: Mapping[str, str] = LOSSES, **options: Any) -> nn.Module:
    """Make a loss by name.

    Args:
        name: one of the names in ``known``, or ``module:Class`` for your own loss.
        known: name to ``module:Class``.
        options: arguments of the class.

    Raises:
        OptionError: there is no such loss, or it does not take an option. When called, the loss raises one if it
            returns anything but a single number with a gradient.
    """
    loss_class = find_loss(name, known)
    try:
        loss = loss_class(**checked_options(name, loss_class, options))
    except TypeError as error:
        raise OptionError(f"Loss {name!r} cannot be made with {sorted(options)}: {error}.") from error

    def require_number(module: nn.Module, inputs: Any, value: Any) -> None:
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise OptionError(
                f"Loss {name!r} returns a {type(value).__name__}{shape}; it must return a tensor of one number, such "
                "as the mean over pairs."
            )
        learns = is_grad_enabled() and any(isinstance(given, Tensor) and given.requires_grad for given in inputs)
        if learns and not value.requires_grad:
            raise OptionError(f"Loss {name!r} returns a number without a gradient; compute it from the embeddings.")

    loss.register_forward_hook(require_number)
    return loss


def checked_options(name: str, loss_class: type[nn.Module], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a loss, and convert whole floats to int: YAML and the shell give 1e3 for 1000.

    Args:
        name: name of the loss, for messages.
        loss_class: the loss.
        options: values by name.

    Raises:
        OptionError: the loss has no such option, or needs another kind of value (number, whole number, text).
    """
    parameters = signature(loss_class).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    checked = dict(options)
    for option, value in options.items():
        if option not in parameters:
            if takes_any:
                continue
            raise OptionError(f"Loss {name!r} has no option {option!r}.{did_you_mean(option, parameters)}")
        annotation = parameters[option].annotation
        kinds = {kind.partition("[")[0] for kind in str(getattr(annotation, "__name__", annotation)).split(" | ")}
        if not kinds <= {*_KINDS, "None"} or (value is None and "None" in kinds):
            continue
        fits = any(isinstance(value, _KINDS[kind][0]) for kind in kinds - {"None"})
        if not fits or isinstance(value, bool):  # a bool is an int to isinstance
            needed = " or ".join(sorted({_KINDS[kind][1] for kind in kinds - {"None"}}))
            raise OptionError(f"{option} of loss {name!r} is {shown(value)}; it must be {needed}.")
        if "int" in kinds and "float" not in kinds and isinstance(value, int | float):
            if value != value // 1 or abs(value) > _LARGEST:
                raise OptionError(f"{option} of loss {name!r} is {shown(value)}; it must be a whole number.")
            checked[option] = int(value)
    return checked


def find_loss(name: str, known: Mapping[str, str] = LOSSES) -> type[nn.Module]:
    """Return the class of a loss by name.

    Args:
        name: one of the names in ``known``, or ``module:Class`` for your own loss.
        known: name to ``module:Class``.

    Raises:
        OptionError: there is no such loss.
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
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: an empty or relative name
        raise OptionError(
            f"Loss {name!r} cannot be imported ({error}). Check the module's name and PYTHONPATH."
        ) from error
    if not (isinstance(loss_class, type) and issubclass(loss_class, nn.Module)):
        raise OptionError(f"Loss {name!r} is not a torch.nn.Module.")
    return loss_class


def labels_of(loss_class: type[nn.Module]) -> str:
    """Return which labels a loss learns from: "classes" or "continuous".

    Raises:
        OptionError: its attribute ``labels`` is something else.
    """
    labels = getattr(loss_class, "labels", CLASSES)
    if labels not in (CLASSES, CONTINUOUS):
        raise OptionError(
            f"{loss_class.__name__}.labels is {labels!r}; a loss learns from {CLASSES!r} or {CONTINUOUS!r}."
        )
    return str(labels)
