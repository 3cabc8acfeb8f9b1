"""Ready embeddings, by image id, as a teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, first_line, shown
from zoo.formats.arrays import read_arrays
from zoo.formats.embedding_parts import is_embedding_folder, read_embeddings
from zoo.models.facts import COSINE
from zoo.paths import given_path
from zoo.teachers.base import Teacher


class ArrayTeacher(Teacher):
    """Ready embeddings, one for each image id; every view of an image gets the embedding of the image.

    Args:
        embeddings: image id to ``(D,)``, or the path of an ``.npz`` file with ``ids`` (strings ``(N,)``) and
            ``embeddings`` (float ``(N, D)``), or of a folder that ``compressor embed`` wrote.
        metric: "cosine" or "euclidean"; None for the folder's metric, else cosine.

    Raises:
        DataError: the embeddings are missing, broken, not finite, or not one vector for each id.
    """

    def __init__(self, embeddings: Mapping[str, np.ndarray] | str | Path, metric: str | None = None) -> None:
        self.metric = metric or COSINE
        self.name = str(Path(embeddings).name) if isinstance(embeddings, str | Path) else "embeddings"
        if isinstance(embeddings, str | Path):
            path = given_path(embeddings)
            if is_embedding_folder(path):
                facts, part = read_embeddings(path)
                ids, array, self.metric = part.ids, part.vectors, metric or facts.metric
            else:
                ids, array = _read_npz(path)
        else:
            try:
                array = np.stack([_as_array(row) for row in embeddings.values()])
            except ValueError as error:
                raise DataError(f"The teacher's embeddings must be one vector for each image id ({error}).") from error
            ids = [str(name) for name in embeddings]
        if array.ndim != 2:
            raise DataError(f"Teacher {self.name}: embeddings must be (N, D), found shape {array.shape}.")
        if not len(ids) == len(set(ids)) == len(array):
            raise DataError(
                f"Teacher {self.name} has {len(array)} embeddings for {len(ids)} ids, {len(set(ids))} of them "
                "different; there must be one each."
            )
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            raise DataError(
                f"Teacher {self.name}: {(~finite).sum()} of {len(ids)} embeddings are not finite in float32, the first "
                f"of image {shown(ids[int(np.argmin(finite))])}. Embed it again, or leave it out."
            )
        self._row = {name: row for row, name in enumerate(ids)}
        self._array = np.ascontiguousarray(array, dtype=np.float32)
        hashed = hashlib.sha256(json.dumps([ids, self.metric]).encode())
        hashed.update(self._array.tobytes())
        self.digest = hashed.hexdigest()[:16]

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return self._array[self._rows([images.ids[i] for i in range(len(images))])]

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        rows = self._rows([images.ids[i] for i in indices.tolist()])
        return torch.from_numpy(self._array[rows]).to(views.device)

    def holds(self, name: str) -> bool:
        """Return whether an image id has an embedding here."""
        return name in self._row

    def require(self, names: Sequence[str]) -> None:
        """Refuse image ids that have no embedding here.

        Raises:
            DataError: an id has no embedding; names it.
        """
        missing = [name for name in names if name not in self._row]
        if missing:
            raise DataError(
                f"Teacher {self.name} has no embedding for image {missing[0]!r} "
                f"({len(missing)} of {len(names)} missing). Ids are paths relative to the data's root."
            )

    def _rows(self, names: list[str]) -> list[int]:
        self.require(names)
        return [self._row[name] for name in names]


def _as_array(row: np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row, dtype=np.float32)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    if not path.is_file():
        raise DataError(f"Teacher {path} does not exist. Check the path.")
    try:
        arrays = read_arrays(path, ("ids", "embeddings"))
        ids, embeddings = arrays["ids"], arrays["embeddings"]
        if ids.ndim != 1 or ids.dtype.kind not in "USiu":
            raise ValueError(f"ids are {ids.dtype} {ids.shape}; they must be strings (N,)")
        if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
            raise ValueError(f"embeddings are {embeddings.dtype} {embeddings.shape}; they must be float (N, D)")
        with np.errstate(over="ignore"):  # found not to be finite below
            texts = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in ids.tolist()]
            return texts, embeddings.astype(np.float32)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Teacher {path} must be an .npz file with ids and embeddings ({first_line(error)})."
        ) from error
