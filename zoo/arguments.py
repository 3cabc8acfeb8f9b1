"""What the verbs' arguments have in common: types that the shell and YAML write as text, and ranges of numbers.

Types that Python may give as objects are, at run time, what text can say. The command line reads them so, without
importing torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zoo.errors import OptionError, require_known

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from zoo.data import DataSplits
    from zoo.teachers.base import Teacher

    DataLike: TypeAlias = str | Path | DataSplits
    ModelLike: TypeAlias = str | Path | nn.Module
    TeacherLike: TypeAlias = str | Path | nn.Module | Mapping[str, np.ndarray] | Teacher
else:
    DataLike = str
    ModelLike = str | Path
    TeacherLike = str | Path

_ABOVE_0 = ("lr", "proxy_lr_factor", "step_factor", "gradient_clip", "layer_decay")
_AT_LEAST_0 = (
    "weight_decay",
    "towards_start",
    "warmup_epochs",
    "max_unreadable",
    "workers",
    "latency_runs",
    "seed",
    "qat_epochs",
    "images_per_class",
)
_AT_LEAST_1 = (
    "dim",
    "epochs",
    "views",
    "neighbours",
    "step_epochs",
    "validate_every",
    "num_nodes",
    "bootstrap",
    "calibration_images",
)
_AT_LEAST_2 = ("batch_size",)
_FRACTIONS = ("max_drop",)
_LARGEST_SEED = 2**32 - 1  # numpy's
AUGMENTATIONS = ("photo", "photo-strong", "drawing", "none")
SCHEDULES = ("cosine", "step")
FREEZES = ("none", "backbone")
METRICS = ("cosine", "euclidean")
TEACHER_PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")  # of Lightning's, those that keep weights in float32
_WORDS = {
    "augment": AUGMENTATIONS,
    "schedule": SCHEDULES,
    "freeze": FREEZES,
    "metric": METRICS,
    "teacher_precision": TEACHER_PRECISIONS,
}


def require_valid(options: Mapping[str, Any]) -> None:
    """Refuse numbers and words that cannot work, before anything is read or computed.

    Args:
        options: a verb's, by name; None, and names that are not known here, pass.

    Raises:
        OptionError: a number is out of range, or a word unknown.
    """
    words = _WORDS | ({"precision": _PRECISIONS} if "epochs" in options else {})  # without epochs, it is that of files
    for name, known in words.items():
        if options.get(name) is not None:
            require_known(name, options[name], known)
    require_above(0, **{name: options[name] for name in _ABOVE_0 if options.get(name) is not None})
    for lowest, names in ((0, _AT_LEAST_0), (1, _AT_LEAST_1), (2, _AT_LEAST_2)):
        require_at_least(lowest, **{name: options[name] for name in names if options.get(name) is not None})
    for name in _FRACTIONS:
        value = options.get(name)
        if value is not None and not 0 <= value <= 1:
            raise OptionError(f"{name} is {value}; it must lie in [0, 1], such as 0.005 for half a point.")
    of_each, batch = options.get("images_per_class"), options.get("batch_size")
    if of_each is not None and batch is not None and of_each > batch:
        raise OptionError(f"images_per_class is {of_each}; it must lie in 0..batch_size ({batch}).")
    smallest = options.get("min_crop")
    if smallest is not None and not 0 < smallest <= 1:
        raise OptionError(f"min_crop is {smallest}; it must lie in (0, 1].")
    seed = options.get("seed")
    if seed is not None and seed > _LARGEST_SEED:
        raise OptionError(f"seed is {seed}; it must be at most {_LARGEST_SEED}.")


def require_given(verb: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options without a value that need one; YAML makes null of what is left blank after a name.

    Args:
        verb: the function whose options these are; its annotations say which may be None.
        options: by name.

    Raises:
        OptionError: one has none.
    """
    for name, parameter in signature(verb).parameters.items():
        if options.get(name, "") is None and "None" not in str(parameter.annotation):
            raise OptionError(f"{name} has no value. Give it one, or leave it out for the default.")


def same_place(one: Any, other: Any) -> bool:
    """Return whether two values of an option, such as folder:PATH, name the same file or folder, wherever it lies.

    What was moved, or is named from another working directory, has another path and the same name.
    """
    return bool(one == other or re.split("[:/]", str(one))[-1] == re.split("[:/]", str(other))[-1])


def require_above(limit: float, **options: float) -> None:
    """Raise an OptionError for the first option that is not above a limit."""
    for name, value in options.items():
        if not value > limit:
            raise OptionError(f"{name} is {value}; it must be above {limit}.")


def require_at_least(lowest: float, **options: float) -> None:
    """Raise an OptionError for the first option that is below a limit."""
    for name, value in options.items():
        if not value >= lowest:
            raise OptionError(f"{name} is {value}; it must be at least {lowest}.")
