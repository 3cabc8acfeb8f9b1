"""A cache of a report's embeddings, so that the next report on the same models and images need not compute them."""

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
    """Stores embeddings in a folder, keyed by the digests of model and images.

    Args:
        folder: receives one ``.npy`` file with a checksum per model and image set; None to store nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._used: set[Path] = set()

    def through(self, embed: Embed, *key: object) -> Embed:
        """Return a function that embeds images as ``embed`` does, but reads stored embeddings if there are any.

        Args:
            embed: returns float32 ``(N, D)``.
            key: what the embeddings depend on besides the images, such as a digest, as JSON values. An empty text means
                unknown: then nothing is stored.
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
        """Remove the entries that this report did not use."""
        if self.folder is None or not self.folder.is_dir():
            return
        remove_left_over(self.folder)
        for file in self.folder.glob("*.npy"):
            if file not in self._used and _OURS.fullmatch(file.name):
                file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
