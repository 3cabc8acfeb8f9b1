"""Teachers of any kind, as one: a model folder, a torch module, an ONNX file, or ready embeddings keyed by image id.

A teacher is always in eval mode and never gets gradients.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from zoo.arguments import TEACHER_PRECISIONS, TeacherLike
from zoo.data.image_set import ImageSet
from zoo.errors import DataError, ModelError, OptionError, first_line, require_known
from zoo.files import digest
from zoo.models.embedding import dtype_of, embed, vectors_of
from zoo.models.making import COSINE, embed_with_maps, facts_of, load_model, preprocessing_of
from zoo.models.precision import bfloat16_is_fast
from zoo.models.preprocessing import Normalize, Preprocess, Preprocessing, half
from zoo.retrieval.label_measures import NDCG_K

log = logging.getLogger(__name__)

T = TypeVar("T")

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(ABC):
    """What a student learns from.

    Attributes:
        name: for reports.
        metric: how its embeddings are compared, "cosine" or "euclidean".
        digest: changes when the teacher does.
        input_size: height and width it wants views in, or None for any.
        continuous: it is known to have learned from continuous labels, so that these judge it, classes or not.
    """

    name: str
    metric: str
    digest: str
    input_size: tuple[int, int] | None = None
    continuous: bool = False

    @abstractmethod
    def embed_images(self, images: ImageSet) -> np.ndarray:
        """Embed whole images as at test time; float32 ``(N, D)``."""

    @abstractmethod
    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        """Embed training views, without gradient.

        Args:
            views: uint8 ``(N, 3, H, W)``.
            indices: int64 ``(N,)``, the image in ``images`` that each view shows.
            images: the training images.

        Returns:
            float32 ``(N, D)``.
        """

    def embed_views_with_maps(self, views: Tensor, indices: Tensor, images: ImageSet) -> tuple[Tensor, list[Tensor]]:
        """Embed training views as :meth:`embed_views` does, and return the feature maps on the way, for losses of maps.

        Returns:
            float32 ``(N, D)``, and float maps ``(N, C, H', W')`` from the first stage to the last.

        Raises:
            OptionError: the teacher has no feature maps to give.
        """
        raise OptionError(
            f"Teacher {self.name} gives no feature maps. Take a model folder or a timm model as the teacher, or a loss "
            "of embeddings alone, such as relaxed_contrastive."
        )

    def to(self, device: torch.device) -> Teacher:
        """Move to a device, where that applies."""
        return self

    def compile(self) -> Teacher:
        """Have the views' forward pass compiled, where that applies."""
        return self

    def parameters(self) -> int | None:
        """Return the number of parameters, or None if unknown."""
        return None


class TorchTeacher(Teacher):
    """A torch module that takes float32 ``(N, 3, H, W)`` and gives ``(N, D)``.

    Args:
        module: put in eval mode.
        preprocessing: how pixels become its input; None for what a timm model says of itself, else ImageNet's.
        metric: None for what a zoo model says of itself, else cosine.
        name: for reports.
        precision: "fp32", "bf16" or "fp16": autocast of the views' forward pass; or "auto": bf16 where the device has
            it in hardware, else fp32.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing | None = None,
        metric: str | None = None,
        name: str | None = None,
        precision: str = "fp32",
    ) -> None:
        require_known("teacher_precision", precision, TEACHER_PRECISIONS)
        self.module = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocessing = preprocessing or preprocessing_of(module)
        self.metric = metric or facts_of(module).metric
        self.name = name or type(module).__name__
        self.precision = precision
        self.input_size = self.preprocessing.input_size
        self.continuous = f"ndcg_at_{NDCG_K}" in facts_of(module).measured.get("validation", {})
        self._normalize = Normalize(self.preprocessing)
        self._network: Callable[[Tensor], Tensor] = self.module.__call__
        hashed = hashlib.sha256(f"{type(module).__name__} {self.metric} {self.preprocessing}".encode())
        for key, tensor in module.state_dict().items():
            hashed.update(key.encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        self.digest = hashed.hexdigest()[:16]

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return embed(self.module, images, preprocessing=self.preprocessing)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        return vectors_of(self.module, self._run(self._network, views))

    def embed_views_with_maps(self, views: Tensor, indices: Tensor, images: ImageSet) -> tuple[Tensor, list[Tensor]]:
        embeddings, maps = self._run(partial(embed_with_maps, self.module), views)
        return embeddings.float(), maps

    @torch.no_grad()
    def _run(self, network: Callable[[Tensor], T], views: Tensor) -> T:
        self.module.eval()
        pixels = self._normalize(resize_views(views, self.preprocessing.input_size))
        dtype = AUTOCAST[self.precision_on(views.device)]
        with torch.autocast(views.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return network(pixels.to(dtype_of(self.module)).contiguous(memory_format=torch.channels_last))

    def precision_on(self, device: torch.device) -> str:
        """Return what ``precision`` comes to on a device: "fp32", "bf16" or "fp16"."""
        if self.precision == "auto":
            return "bf16" if bfloat16_is_fast(device) else "fp32"
        return self.precision

    def to(self, device: torch.device) -> Teacher:
        self.module.to(device)
        self._normalize.to(device)
        return self

    def compile(self) -> Teacher:
        self._network = torch.compile(self.module.forward)
        return self

    def parameters(self) -> int | None:
        return sum(parameter.numel() for parameter in self.module.parameters())


class OnnxTeacher(Teacher):
    """An ONNX file: one of ours (pixels in), or any with one float image input and an output ``(N, D)``.

    The input may be ``(N, 3, H, W)`` or ``(N, H, W, 3)``, float32 or float16, and of a batch size that is fixed.

    Args:
        path: the file.
        preprocessing: for a file of another make, how pixels become its input; None for ImageNet's at its own size.
        metric: None for what the file says of itself, else cosine.
    """

    def __init__(self, path: str | Path, preprocessing: Preprocessing | None = None, metric: str | None = None) -> None:
        import onnxruntime

        from zoo.sessions import session_options

        path = Path(path)
        if not path.is_file():
            raise ModelError(f"Teacher {path} does not exist. Check the path.")
        try:
            providers = onnxruntime.get_available_providers()
            self._session = onnxruntime.InferenceSession(str(path), session_options(threads=None), providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise ModelError(f"Teacher {path} is not an ONNX file that onnxruntime loads ({reason}).") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        metadata = self._session.get_modelmeta().custom_metadata_map
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise ModelError(f"Teacher {path} must have one image input, found {[i.name for i in inputs]}.")
        self._input, self._output = inputs[0].name, outputs[0].name
        self._takes_pixels = inputs[0].type == "tensor(uint8)"
        if inputs[0].type not in _DTYPES:
            raise ModelError(f"Teacher {path} takes {inputs[0].type}; it must take one of {', '.join(_DTYPES)}.")
        self._dtype = _DTYPES[inputs[0].type]
        batch, *shape = inputs[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._channels_last = not self._takes_pixels and shape[2] == 3 and shape[0] != 3
        sides = shape[:2] if self._channels_last else shape[1:]
        self.preprocessing = preprocessing or _onnx_preprocessing(path, metadata, sides, self._takes_pixels)
        self._prepare = Preprocess(self.preprocessing)
        self.metric = metric or metadata.get("metric", COSINE)
        self.name = path.name
        self.digest = hashlib.sha256(f"{digest(path)} {self.metric} {self.preprocessing}".encode()).hexdigest()[:16]
        self.input_size = self.preprocessing.input_size

    def embed_images(self, images: ImageSet) -> np.ndarray:
        rows = []
        for index in tqdm(range(len(images)), desc="embedding", leave=False):
            pixels = images.pixels(index)[None]
            rows.append(self._run(pixels if self._takes_pixels else self._prepare(torch.from_numpy(pixels)).numpy()))
        return np.concatenate(rows)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        pixels = resize_views(views.cpu(), self.preprocessing.input_size)
        if self._takes_pixels:
            # The file resizes and crops by itself. A border of what it will crop away makes both leave the view alone.
            (height, width), (tall, wide) = self.preprocessing.input_size, self.preprocessing.resized_size
            top, left = half(tall - height), half(wide - width)
            border = (left, wide - width - left, top, tall - height - top)
            padded = functional.pad(pixels.round().to(torch.uint8), border)
            batch = padded.permute(0, 2, 3, 1).contiguous().numpy()
        else:
            batch = self._prepare.normalize(pixels).numpy()
        return torch.from_numpy(self._run(batch)).to(views.device)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch as the file wants it: its data type, its layout, and its own batch size where that is fixed."""
        given = batch.astype(self._dtype, copy=False)
        if self._channels_last:
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        size = self._batch or len(given)
        parts = [given[start : start + size] for start in range(0, len(given), size)]
        missing = size - len(parts[-1])
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], missing, axis=0)])
        return np.concatenate([self._run_once(part) for part in parts])[: len(given)]

    def _run_once(self, batch: np.ndarray) -> np.ndarray:
        try:
            (embeddings,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise ModelError(f"Teacher {self.name} failed on a batch of shape {batch.shape} ({reason}).") from error
        if embeddings.ndim != 2:
            raise ModelError(f"Teacher {self.name} must give (N, D) embeddings, found shape {embeddings.shape}.")
        return np.asarray(embeddings, dtype=np.float32)


class ArrayTeacher(Teacher):
    """Ready embeddings, one for each image id; every view of an image gets the embedding of the image.

    Args:
        embeddings: image id to ``(D,)``, or the path of an ``.npz`` file with ``ids`` (strings ``(N,)``) and
            ``embeddings`` (float ``(N, D)``).
        metric: "cosine" or "euclidean".
    """

    def __init__(self, embeddings: Mapping[str, np.ndarray] | str | Path, metric: str = COSINE) -> None:
        self.metric = metric
        self.name = str(Path(embeddings).name) if isinstance(embeddings, str | Path) else "embeddings"
        if isinstance(embeddings, str | Path):
            ids, array = _read_npz(Path(embeddings))
        else:
            try:
                array = np.stack([_as_array(row) for row in embeddings.values()])
            except ValueError as error:
                raise DataError(f"The teacher's embeddings must be one vector for each image id ({error}).") from error
            ids = [str(name) for name in embeddings]
        if array.ndim != 2 or not np.isfinite(array).all():
            raise DataError(f"Teacher {self.name}: embeddings must be finite and (N, D), found shape {array.shape}.")
        if not len(ids) == len(set(ids)) == len(array):
            raise DataError(
                f"Teacher {self.name} has {len(array)} embeddings for {len(ids)} ids, {len(set(ids))} of them "
                "different; there must be one each."
            )
        self._row = {name: row for row, name in enumerate(ids)}
        self._array = np.ascontiguousarray(array, dtype=np.float32)
        hashed = hashlib.sha256(json.dumps([ids, metric]).encode())
        hashed.update(self._array.tobytes())
        self.digest = hashed.hexdigest()[:16]

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return self._array[self._rows([images.ids[i] for i in range(len(images))])]

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        rows = self._rows([images.ids[i] for i in indices.tolist()])
        return torch.from_numpy(self._array[rows]).to(views.device)

    def require(self, names: Sequence[str]) -> None:
        """Refuse image ids that have no embedding here.

        Raises:
            DataError: there are such; names one.
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


def open_teacher(teacher: TeacherLike, precision: str = "fp32", cache: str | Path | None = None) -> Teacher:
    """Make a teacher of whatever is given: a model folder, an ``.onnx`` or ``.npz`` file, a module or a mapping.

    Args:
        teacher: what is given.
        precision: of a torch module's forward pass on views, see TorchTeacher.
        cache: folder to keep its embeddings of views in, see CachedTeacher; None for none. Ready embeddings need none.

    Raises:
        ModelError: nothing is there, or it is not a teacher.
        DataError: ready embeddings that are missing, broken or not one for each id.
        OptionError: the cache cannot be written to.
    """
    opened = _open(teacher, precision)
    if cache is None or isinstance(opened, ArrayTeacher):
        return opened

    from zoo.teachers.cache import CachedTeacher

    return CachedTeacher(opened, cache)


def _open(teacher: TeacherLike, precision: str) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, nn.Module):
        return TorchTeacher(teacher, precision=precision)
    if isinstance(teacher, Mapping):
        return ArrayTeacher(teacher)
    path = Path(teacher)
    if path.suffix == ".onnx":
        return OnnxTeacher(path)
    if path.suffix == ".npz":
        return ArrayTeacher(path)
    if not path.exists():
        raise ModelError(f"Teacher {path} does not exist. Give a model folder, an .onnx file or an .npz file.")
    if not path.is_dir():
        raise ModelError(f"Teacher {path} is neither a model folder nor an .onnx or .npz file.")
    return TorchTeacher(load_model(path), name=path.name, precision=precision)


def resize_views(views: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring uint8 views ``(N, 3, H, W)`` to a size, as float32 0..255, antialiased."""
    pixels = views.float()
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def _as_array(row: np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row, dtype=np.float32)


def _onnx_preprocessing(path: Path, metadata: dict[str, str], sides: list[Any], takes_pixels: bool) -> Preprocessing:
    if "preprocessing" in metadata:
        return Preprocessing.of(json.loads(metadata["preprocessing"]))
    if takes_pixels:
        raise ModelError(f"Teacher {path} takes bytes but has no preprocessing in its metadata. Export it anew.")
    height, width = (side if isinstance(side, int) else 224 for side in sides)
    return Preprocessing(input_size=(height, width))


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as opened:
            return [str(name) for name in opened["ids"]], opened["embeddings"].astype(np.float32)
    except FileNotFoundError as error:
        raise DataError(f"Teacher {path} does not exist. Check the path.") from error
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"Teacher {path} must be an .npz file with ids and embeddings ({error}).") from error
