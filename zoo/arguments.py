"""Types and ranges shared by the verbs' arguments.

Type checkers see every object that Python callers may pass. At run time the aliases hold only the types that text can
express, so the command line parses them without importing torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zoo.errors import OptionError, require_known, shown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.utils.data import Dataset

    from zoo.data import DataSplits
    from zoo.teachers.base import Teacher

    # Sized covers lists, arrays, frames, mappings of parts, and the objects that zoo.data makes.
    DataLike: TypeAlias = str | Path | DataSplits | Dataset[Any] | Sized
    ArchLike: TypeAlias = str | nn.Module
    ModelLike: TypeAlias = str | Path | nn.Module
    TeacherLike: TypeAlias = (
        str | Path | nn.Module | ExportedProgram | Callable[[Tensor], Any] | Mapping[str, np.ndarray] | Teacher
    )
else:
    ArchLike = str
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
    "judged_images",
    "rows_per_part",
    "teacher_views",
    "processes",
)
_AT_LEAST_2 = ("batch_size",)
# Far more than anybody needs. Larger values would exhaust memory or patience before the verb ends.
_AT_MOST = {
    "batch_size": 10**6,
    "bootstrap": 10**5,
    "calibration_images": 10**6,
    "dim": 65536,
    "epochs": 10**6,
    "image_size": 4096,
    "images_per_class": 10**6,
    "k": 10**6,
    "latency_runs": 10**5,
    "neighbours": 10**6,
    "num_nodes": 10**4,
    "processes": 10**5,
    "qat_epochs": 10**6,
    "rows_per_part": 10**7,
    "runs": 10**5,
    "validate_every": 10**6,
    "teacher_views": 10**4,
    "views": 1000,
    "workers": 1024,
}
_MOST_NEIGHBOURS = 1000  # largest K of Recall@K; the neighbours of all queries are kept in memory
_NUMBERS = ("crop_pct", "min_crop", "validation", "min_retention")
_NOT_WHOLE = {*_ABOVE_0, "weight_decay", "towards_start", *_NUMBERS}
_FRACTIONS = ("max_drop",)
_LARGEST_SEED = 2**32 - 1  # numpy's
AUGMENTATIONS = ("photo", "photo-strong", "photo-mixed", "mild", "drawing", "none")
SCHEDULES = ("cosine", "step")
FREEZES = ("none", "backbone")
METRICS = ("cosine", "euclidean")
TEACHER_PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")  # Lightning's precisions that keep weights in float32
_WORDS = {
    "augment": AUGMENTATIONS,
    "schedule": SCHEDULES,
    "freeze": FREEZES,
    "metric": METRICS,
    "teacher_precision": TEACHER_PRECISIONS,
}


def require_valid(options: Mapping[str, Any]) -> None:
    """Check the types, ranges and words of a verb's options before anything is read or computed.

    Args:
        options: values by name; None and names without a rule here pass.

    Raises:
        OptionError: a value has the wrong type, a number is out of range, or a word is unknown.
    """
    _require_numbers(options)
    words = _WORDS | ({"precision": _PRECISIONS} if "epochs" in options else {})  # without epochs, it is a file's
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
    per_class, batch = options.get("images_per_class"), options.get("batch_size")
    if per_class is not None and batch is not None and per_class > batch:
        raise OptionError(f"images_per_class is {per_class}; it must lie in 0..batch_size ({batch}).")
    stored_views, views = options.get("teacher_views"), options.get("views")
    if stored_views is not None and views is not None and stored_views < views:
        raise OptionError(f"teacher_views is {stored_views}; it must be at least views, which is {views}.")
    smallest = options.get("min_crop")
    if smallest is not None and not 0 < smallest <= 1:
        raise OptionError(f"min_crop is {smallest}; it must lie in (0, 1].")
    for name, most in ({"seed": _LARGEST_SEED} | _AT_MOST).items():
        value = options.get(name)
        if value is not None and value > most:
            raise OptionError(f"{name} is {value}; it must be at most {most}.")


def _require_numbers(options: Mapping[str, Any]) -> None:
    """Refuse values that are not numbers, and fractions where a whole number is needed."""
    for name in (*_ABOVE_0, *_AT_LEAST_0, *_AT_LEAST_1, *_AT_LEAST_2, *_FRACTIONS, *_NUMBERS, *_AT_MOST):
        value = options.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise OptionError(f"{name} is {shown(value)}; it must be a number.")
        if name not in (*_NOT_WHOLE, *_FRACTIONS) and not isinstance(value, Integral):
            raise OptionError(f"{name} is {shown(value)}; it must be a whole number.")
        if isinstance(value, Integral) and abs(int(value)) > 10**18:
            raise OptionError(f"{name} is {shown(int(value))}; that is too large.")


def require_neighbours(ks: Sequence[Any]) -> None:
    """Check the values of K of Recall@K.

    Raises:
        OptionError: a K is not a whole number in 1..1000, or 1 is not among them.
    """
    given: list[Any] = list(ks) if isinstance(ks, Sequence) and not isinstance(ks, str) else [ks]
    if any(isinstance(k, bool) or not isinstance(k, Integral) for k in given):
        raise OptionError(f"ks is {shown(given)}; each must be a whole number.")
    if 1 not in given or min(given) < 1:
        raise OptionError(f"ks is {shown(given)}; each must be at least 1, and retention needs Recall@1 among them.")
    if max(given) > _MOST_NEIGHBOURS:
        raise OptionError(f"ks is {shown(given)}; each must be at most {_MOST_NEIGHBOURS}.")


def require_given(verb: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse None for options that need a value; YAML reads a blank after a name as null.

    Args:
        verb: the function whose options these are; its annotations say which may be None.
        options: values by name.

    Raises:
        OptionError: an option that needs a value has none.
    """
    for name, parameter in signature(verb).parameters.items():
        if options.get(name, "") is None and "None" not in str(parameter.annotation):
            raise OptionError(f"{name} has no value. Give it one, or leave it out for the default.")


def same_place(one: Any, other: Any) -> bool:
    """Return whether two values of an option, such as folder:PATH, end in the same file or folder name.

    A folder that was moved, or is named from another working directory, has a different path but the same name.
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
