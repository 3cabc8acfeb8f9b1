"""Pair the feature maps of a student with those of a teacher of any architecture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def pair_stages(
    student: Sequence[Tensor], teacher: Sequence[Tensor], most: int = 4
) -> tuple[list[Tensor], list[Tensor]]:
    """Choose the same number of stages in both networks, paired from the last stage on.

    If the shape of the maps changes with depth, each shape is a stage, represented by its last map, and the last stages
    are chosen. If all maps have one shape, as in a plain transformer, they are divided evenly by depth.

    Args:
        student: all maps ``(N, C, H, W)``, first to last.
        teacher: all maps ``(N, C', H', W')``, first to last.
        most: largest number of stages; a ResNet without its stem has four.

    Returns:
        The chosen maps of student and teacher, equally many, first to last.
    """
    count = min(most, *(len(_stages(maps)) for maps in (student, teacher)))
    return _choose(student, count), _choose(teacher, count)


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average maps ``(N, C, H, W)`` and ``(N, C', H', W')`` down to the smaller height and width."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return functional.adaptive_avg_pool2d(student, size), functional.adaptive_avg_pool2d(teacher, size)


def _stages(maps: Sequence[Tensor]) -> list[Tensor]:
    last_of_shape = list({tuple(map_.shape[1:]): map_ for map_ in maps}.values())
    return last_of_shape if len(last_of_shape) > 1 else list(maps)


def _choose(maps: Sequence[Tensor], count: int) -> list[Tensor]:
    stages = _stages(maps)
    if stages[0].shape == stages[-1].shape:
        return [stages[(part + 1) * len(stages) // count - 1] for part in range(count)]
    return stages[-count:]
