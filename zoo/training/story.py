"""What a training run reports: a bar in a terminal, else a log line per epoch, and a closing message.

The closing message says in two or three sentences which epoch was kept, judged on what, and what to try.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from zoo.progress import are_bars_shown

if TYPE_CHECKING:
    import lightning

    from zoo.training.learner import Learner
    from zoo.training.start import Start

log = logging.getLogger(__name__)

_FEW_CLASSES = 5  # with fewer validation classes, the choice of an epoch is largely chance
_RISING = 0.1  # if the best epoch is in this last fraction of the run, more epochs may help


def progress_of_training() -> Callback:
    """Return the callback that shows progress: a bar in a terminal, elsewhere a log line per epoch."""
    return Bar(refresh_rate=5) if are_bars_shown() else EpochLines()


class Bar(TQDMProgressBar):
    """Lightning's bar, on standard error: standard output is for results."""

    def init_train_tqdm(self) -> Tqdm:
        """Return the bar of an epoch."""
        return Tqdm(
            desc=self.train_description,
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )


class EpochLines(Callback):
    """Logs a line after each epoch: mean loss, validation measures, and duration in seconds."""

    def __init__(self) -> None:
        self._began = 0.0
        self._epoch = 0  # the current one, from 1; 0 for none
        self._losses: list[Any] = []  # tensors on the device, since reading one waits for it

    def on_train_epoch_start(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        self._tell(trainer, learner)
        self._began, self._epoch, self._losses = time.monotonic(), trainer.current_epoch + 1, []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, learner: lightning.LightningModule, outputs: Any, *batch: Any
    ) -> None:
        self._losses.append(outputs["loss"].detach())

    def on_train_end(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        self._tell(trainer, learner)

    def _tell(self, trainer: lightning.Trainer, learner: Any) -> None:
        """Log the previous epoch. This cannot run at its end, since the learner measures after its callbacks."""
        if not self._epoch or not self._losses or not trainer.is_global_zero:
            return
        loss = sum(float(value) for value in self._losses) / len(self._losses)
        line = f"epoch {self._epoch}/{trainer.max_epochs}: loss {loss:.4g}"
        if learner.history and learner.history[-1]["epoch"] == self._epoch:
            line += f", {learner.in_words(learner.history[-1])}"
        log.info("%s (%.0f s)", line, time.monotonic() - self._began)
        self._epoch = 0


def told(learner: Learner, epochs: int, start: Start | None = None) -> str:
    """Return the closing message: the epoch kept, its measures, those before training, and what to try.

    Args:
        learner: after its fit, with the best weights.
        epochs: how many were trained.
        start: the start of a pretrained network, else None.
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
            f"({learner.in_words(best)}). {learner.advice()}"
        )
    first = None if start is None else start.measured.get(start.head)
    if first is not None:
        gain = 100 * (best[learner.chosen_by] - first[learner.chosen_by])
        kept += f" Before training it had {learner.in_words(first)} ({gain:+.2f} points)."
    if epochs > 1 and _is_rising(learner, epochs):
        kept += " It was still improving: more epochs may help."
    return kept


def _is_rising(learner: Learner, epochs: int) -> bool:
    """Return whether the best epoch is among the last ones, and better than all before these."""
    last = epochs * (1 - _RISING)
    before = [round(entry[learner.chosen_by], 6) for entry in learner.history if entry["epoch"] <= last]
    return bool(learner.best["epoch"] > last and learner.best[learner.chosen_by] > max(before, default=-1.0))
