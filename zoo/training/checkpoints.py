"""What a run leaves in its folder to go on from: whole checkpoints, the best weights, and a lock."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import ModelError, first_line
from zoo.files import alone_in, replacing

BEST = "best.safetensors"


def read_best(file: Path) -> dict[str, Tensor]:
    """Return the weights of the best epoch.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read ({error}). Remove its stage's folder to train anew.") from error
    return weights


class AloneInFolder(Callback):
    """Keeps a second run, begun by mistake while the first is at work, from writing over its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.alone = ExitStack()
        self.folder = folder

    def setup(self, trainer: lightning.Trainer, learner: lightning.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:  # the other ranks belong to it
            self.alone.enter_context(alone_in(self.folder))

    def teardown(self, trainer: lightning.Trainer, learner: lightning.LightningModule, stage: str) -> None:
        self.alone.close()

    def on_exception(
        self, trainer: lightning.Trainer, learner: lightning.LightningModule, error: BaseException
    ) -> None:
        self.alone.close()


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, on any file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
            reason = first_line(error)
            raise ModelError(f"{path} cannot be read ({reason}). Remove it to begin this stage anew.") from error
        return checkpoint
