"""Embeddings that a report was made of, kept so that the next one of the same models and images need not wait."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.files import remove_left_over, replacing
from zoo.teachers.cache import read_if_whole, write_entry

log = logging.getLogger(__name__)

_OURS = re.compile(r"[0-9a-f]{32}\.npy")
_MADE_BY = ("numpy", "onnxruntime", "Pillow", "timm", "torch")
Embed = Callable[[ImageSet], np.ndarray]


class EmbeddingCache:
    """Keeps what models make of images in a folder, by the digests of both.

    Args:
        folder: one ``.npy`` file with a checksum for each model and set of images; None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._used: set[Path] = set()

    def through(self, embed: Embed, *key: object) -> Embed:
        """Return what embeds images as ``embed`` does, or reads what it made of them before.

        Args:
            embed: gives float32 ``(N, D)``.
            key: what its embeddings follow from besides the images, such as a digest, as JSON takes it; with an empty
                text, which stands for unknown, nothing is kept.
        """
        folder = self.folder
        if folder is None or not key or not all(key):
            return embed

        def remembered(images: ImageSet) -> np.ndarray:
            said = json.dumps([key, images.digest, len(images), [version(package) for package in _MADE_BY]])
            file = folder / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.npy"
            self._used.add(file)
            found = read_if_whole(file, len(images), "its images")
            if found is not None:
                log.info("reused the embeddings of %d images", len(images))
                return found
            embeddings = np.asarray(embed(images), np.float32)
            if np.isfinite(embeddings).all():
                with replacing(file) as temporary:
                    write_entry(embeddings, temporary)
            return embeddings

        return remembered

    def tidy(self) -> None:
        """Remove what no model and set of images of this report has asked for."""
        if self.folder is None or not self.folder.is_dir():
            return
        remove_left_over(self.folder)
        for file in self.folder.glob("*.npy"):
            if file not in self._used and _OURS.fullmatch(file.name):
                file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
