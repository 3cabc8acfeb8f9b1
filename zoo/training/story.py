"""What a training came to, in two or three sentences: which epoch was kept, judged on what, and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zoo.training.learner import Learner
    from zoo.training.start import Start

_FEW_CLASSES = 5  # in validation, with which the choice of an epoch is much a matter of chance
_RISING = 0.1  # of a run's epochs: if the best is among so many last ones, more may help


def told(learner: Learner, epochs: int, start: Start | None = None) -> str:
    """Say which epoch a learner kept, by what, how it compares with the network as it comes, and what to try.

    Args:
        learner: after its fit, with the best weights.
        epochs: that were trained.
        start: of a pretrained network, else None.
    """
    validation, best = learner.validation, learner.best
    if validation is None or best["epoch"] is None:
        return f"Kept the last of {epochs} epochs: no validation images are held out to choose by."
    if validation.labels is None:
        judged = f"{len(validation):,} validation images"
    else:
        classes = len(np.unique(validation.labels))
        judged = f"{len(validation):,} images of {classes} validation classes"
        if classes < _FEW_CLASSES:
            judged += " (few, so the choice is partly chance; hold out more with validation)"
    kept = f"Kept epoch {best['epoch']} of {epochs}, judged on {judged}: {learner.in_words(best)}."
    if best["epoch"] == 0:
        return (
            f"Kept the pretrained network with a fitted head: none of {epochs} epochs was better on {judged} "
            f"({learner.in_words(best)}). Try a lower lr, freeze: backbone, a larger min_crop, or more images."
        )
    first = None if start is None else start.measured.get(start.head)
    if first is not None:
        gain = 100 * (best[learner.chosen_by] - first[learner.chosen_by])
        kept += f" Before training it had {learner.in_words(first)} ({gain:+.2f} points)."
    if best["epoch"] > epochs * (1 - _RISING) and epochs > 1:
        kept += " It was still improving: more epochs may help."
    return kept
