"""The image side of a model, with the facts about it: :class:`Tower`, which every family returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo.errors import ModelError, first_line
from zoo.extras import missing
from zoo.models.preprocessing import Preprocess, Preprocessing

_TOLERANCE = 1.0  # mean difference in grey levels of 255; libraries round to integers after the resize
_SHOWN = ((97, 131), (151, 88), (431, 640))  # heights and widths: wide and tall, smaller and larger than inputs


class Tower(nn.Module):
    """The image side of a model: float ``(N, 3, H, W)`` in, ``(N, D)`` out.

    Has a ``pretrained_cfg`` like a timm network, so that code for timm networks can use it.

    Args:
        network: the network to run.
        vector: returns the vectors for the network and its input.
        taken: short name of this vector; the teacher's digest depends on it.
        preprocessing: how pixels become its input.
        architecture: its name, for reports.
        notes: facts about it, in sentences.

    Attributes:
        num_classes: dimensions of the vectors, under timm's name.

    Raises:
        ModelError: it fails on a blank image, or does not return vectors.
    """

    def __init__(
        self,
        network: nn.Module,
        vector: Callable[[nn.Module, Tensor], Tensor],
        taken: str,
        preprocessing: Preprocessing,
        architecture: str,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.pretrained_cfg = preprocessing.as_pretrained_cfg() | {"architecture": architecture}
        self.notes = tuple(notes)
        self.taken = taken
        self._vector = vector
        self.requires_grad_(False).eval()
        try:
            with torch.no_grad():
                found = self(torch.zeros(1, 3, *preprocessing.input_size))
        except ModelError:
            raise
        except Exception as error:  # foreign networks may raise anything
            raise ModelError(
                f"{architecture} fails on an image of {preprocessing.input_size} pixels ({error})."
            ) from error
        if found.ndim != 2:
            raise ModelError(f"{architecture} gives shape {tuple(found.shape)} as {taken}; it must be vectors (N, D).")
        self.num_classes = int(found.shape[1])

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed ``(N, 3, H, W)``; float ``(N, D)``."""
        return self._vector(self.network, pixels)

    def get_extra_state(self) -> str:
        """Return what the digest of the state must include besides the weights."""
        return self.taken

    def set_extra_state(self, state: Any) -> None:
        """Ignore the state; the vector is chosen when the tower is made."""


def require_library(module: str, teacher: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: the library's import name.
        teacher: what needs it, for the message.

    Raises:
        MissingExtraError: the library is not installed; names the command to install it.
        ModelError: the library is installed but cannot be imported.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module:
            raise missing(f"Teacher {teacher}", module) from error
        raise ModelError(f"Teacher {teacher}: {module} cannot be imported ({first_line(error)}).") from error
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"Teacher {teacher}: {module} cannot be imported ({first_line(error)}).") from error


def require_same_pixels(preprocessing: Preprocessing, theirs: Callable[[Image.Image], Any], teacher: str) -> None:
    """Check that a library's preprocessing and ours give the same result for images of odd sizes.

    Args:
        preprocessing: our preprocessing.
        theirs: the library's preprocessing; takes a PIL image, returns float ``(3, H, W)`` or ``(1, 3, H, W)``.
        teacher: the teacher's name, for messages.

    Raises:
        ModelError: they differ in shape, or by more than one grey level on average.
    """
    ours = Preprocess(preprocessing)
    levels = 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    for height, width in _SHOWN:
        shown = _textured(height, width)
        found = ours(torch.from_numpy(shown)[None])
        expected = torch.as_tensor(theirs(Image.fromarray(shown))).float()
        expected = expected[None] if expected.ndim == 3 else expected
        differ = f"shape {tuple(expected.shape)}, not {tuple(found.shape)}"
        if expected.shape == found.shape:
            apart = float(((found - expected) * levels).abs().mean())
            if apart <= _TOLERANCE:
                continue
            differ = f"pixels {apart:.1f} of 255 grey levels away in the mean"
        raise ModelError(
            f"Teacher {teacher}: its preprocessing cannot be translated; for an image of {height} x {width} pixels, "
            f"its own library gives {differ}. {OWN_PREPROCESSING}"
        )


OWN_PREPROCESSING = (
    "In Python, give open_teacher a module that takes (N, 3, H, W), or use TorchTeacher(module, Preprocessing(...))."
)


def _textured(height: int, width: int) -> np.ndarray:
    """Return an image in which all neighbouring pixels differ, without noise; uint8 ``(height, width, 3)``."""
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.sin(rows / 3.1 + phase) + np.cos(columns / 2.3 - phase) + np.sin((rows + columns) / 17) for phase in range(3)
    ]
    return np.clip(128 + 42 * np.stack(waves, axis=2), 0, 255).astype(np.uint8)
