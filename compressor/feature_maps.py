"""Which feature maps of a student are compared with which of a teacher, whatever their architectures."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def pair_stages(
    student: Sequence[Tensor], teacher: Sequence[Tensor], most: int = 4
) -> tuple[list[Tensor], list[Tensor]]:
    """Choose as many stages of both networks as both have, the last of one paired with the last of the other.

    Where the shape of the maps changes with depth, a stage ends with the last map of a shape, and the last stages are
    taken. Where all have one shape, as the blocks of a plain transformer do, they are divided evenly by depth.

    Args:
        student: all maps ``(N, C, H, W)``, first to last.
        teacher: all maps ``(N, C', H', W')``, first to last.
        most: stages to choose at most; four are the stages of a ResNet, without its stem.

    Returns:
        The chosen maps of the student and of the teacher, as many each, first to last.
    """
    count = min(most, *(len(_stages(maps)) for maps in (student, teacher)))
    return _choose(student, count), _choose(teacher, count)


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring maps ``(N, C, H, W)`` and ``(N, C', H', W')`` to the smaller height and width, by averaging."""
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
