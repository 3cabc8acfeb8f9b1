"""A training step of distillation whose student computes as if quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from compressor.learner import TransferLearner
from zoo.models.embedding import embed

if TYPE_CHECKING:
    from compressor.int8_finish.fake_quantization import FakeQuantization

CALIBRATION_IMAGES = 256
RANGE_RATE = 0.05


class QuantizedLearner(TransferLearner):
    """A TransferLearner whose student computes as if quantised; its ranges follow the batches for 3/4 of the epochs.

    Args:
        quantization: fake quantisation of the student, whose BatchNorm statistics stay fixed.
    """

    def __init__(self, *args: Any, quantization: FakeQuantization, **options: Any) -> None:
        super().__init__(*args, **options)
        self.compile_passes = False  # its computation changes when ranges stop following the batches
        self.chosen_by = self.measured  # the measure that later judges the int8 file, on the same images
        self.quantization = quantization

    def setup(self, stage: str) -> None:
        """Leave BatchNorm layers unchanged: their statistics stay fixed, so there is nothing to synchronise."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.quantization.calibrated:  # it is after a resume
            chosen = np.linspace(0, len(self.images) - 1, min(CALIBRATION_IMAGES, len(self.images))).astype(int)
            with self.quantization.calibrating():
                embed(self.model, self.images.subset(chosen), progress=False)

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        if self.current_epoch >= (self.trainer.max_epochs or 1) * 3 // 4:
            return super().training_step(batch)
        with self.quantization.observing(RANGE_RATE):
            return super().training_step(batch)
