"""Types of arguments that the shell and YAML write as text and Python may give as objects.

At run time they are what text can say. The command line reads them so, without importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import nn

    from zoo.data import DataSplits
    from zoo.teachers import Teacher

    DataLike: TypeAlias = str | DataSplits
    ModelLike: TypeAlias = str | Path | nn.Module
    TeacherLike: TypeAlias = str | Path | nn.Module | Mapping[str, np.ndarray] | Teacher
else:
    DataLike = str
    ModelLike = str | Path
    TeacherLike = str | Path
