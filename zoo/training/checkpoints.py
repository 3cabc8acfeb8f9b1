"""The files that a run resumes from: checkpoints and the best weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import ModelError, first_line
from zoo.files import replacing, require_in_place
from zoo.formats.documents import MAPPING, list_of, maybe, require_kinds, whole
from zoo.models.content import bytes_of

BEST, LAST = "best.safetensors", "last.ckpt"
START_WEIGHTS, START_FACTS = "start.safetensors", "start.json"
STORED_VIEWS = "views-*.npy"  # of zoo.teachers.stored_views
DIGEST_KEY = "content_digest"
_REMEDY = "Remove it to begin this stage again."
# What unpicklers, zip readers and torch raise for broken files; with weights_only no code runs.
_BROKEN = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError)
_BROKEN_TOO = (OSError, RuntimeError, TypeError, UnpicklingError, ValueError)
_OF_CHECKPOINT = {"epoch": whole(0), "global_step": whole(0), "best": MAPPING, "history": list_of(MAPPING)} | {
    "state_dict": MAPPING,
    "optimizer_states": list_of(MAPPING),
    "lr_schedulers": list_of(MAPPING),
}


def read_best(file: Path) -> dict[str, Tensor]:
    """Return the weights of the best epoch.

    Raises:
        ModelError: the file cannot be read, or is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            said = (opened.metadata() or {}).get(DIGEST_KEY)
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(f"{file} cannot be read ({reason}). Remove its stage's folder to train again.") from error
    _require_same(file, weights, said, "Remove its stage's folder to train again.")
    return weights


def write_best(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights of the best epoch with a digest, whole or not at all."""
    with replacing(file) as temporary:
        save_file(dict(weights), temporary, metadata={DIGEST_KEY: digest_of(weights)})


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a checkpoint's content: tensors, numbers and texts in mappings and lists."""
    hashed = hashlib.sha256()
    for part in bytes_of(value):
        hashed.update(part)
    return hashed.hexdigest()


def _require_same(file: Any, value: Any, said: Any, remedy: str) -> None:
    if said is not None and (found := digest_of(value)) != said:
        raise ModelError(f"{file} is damaged: its digest is {found[:16]}, and it says {str(said)[:16]}. {remedy}")


def remove_checkpoints(folder: Path) -> None:
    """Remove the files that a run resumes from, and the folder if nothing else is in it."""
    for name in (LAST, BEST, START_WEIGHTS, START_FACTS):
        (folder / name).unlink(missing_ok=True)
    for views in folder.glob(STORED_VIEWS):
        views.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files are in it
        folder.rmdir()


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, on any file system, and carry a digest of their content."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        require_in_place(Path(path).parents[1])
        with replacing(path) as temporary:
            torch.save(checkpoint | {DIGEST_KEY: digest_of(checkpoint)}, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        except (*_BROKEN, *_BROKEN_TOO) as error:
            reason = first_line(error)
            raise ModelError(f"{path} cannot be read ({reason}). {_REMEDY}") from error
        if not isinstance(checkpoint, dict):
            raise ModelError(f"{path} holds {type(checkpoint).__name__}, not a checkpoint. {_REMEDY}")
        said = checkpoint.pop(DIGEST_KEY, None)
        _require_same(path, checkpoint, said, _REMEDY)
        if checkpoint.keys() & _OF_CHECKPOINT.keys():
            try:
                require_kinds(checkpoint, _OF_CHECKPOINT)
                require_kinds(checkpoint["best"], {"epoch": maybe(whole(0))})  # 0: before training
            except ValueError as error:
                raise ModelError(f"{path} is not a checkpoint of this project ({error}). {_REMEDY}") from error
        return checkpoint
