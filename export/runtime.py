"""The runtime for devices: an ONNX file in, embeddings out. Needs onnxruntime, numpy and Pillow only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from zoo.errors import DataError, ForeignModelError, ModelError, OptionError, first_line, shown
from zoo.formats.onnx_content import require_intact
from zoo.formats.onnx_metadata import SCHEMA, read_metadata
from zoo.images import MAX_PIXELS, require_pixels
from zoo.notebook import html_table
from zoo.paths import given_path
from zoo.sessions import Provider, known_providers, open_session

# Also anything that numpy can convert to an array, such as tensors on the CPU.
ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray

_MOST_THREADS = 1024
# Sessions from before a fork: releasing one would wait for its threads, which do not exist in this process.
_OF_PARENTS: list[Any] = []
_INPUTS = {("image", "tensor(uint8)"): "pixels", ("tensor", "tensor(float)"): "tensor"}


class Embedder:
    """Embeds images with an ONNX file made by ``to_onnx``.

    Args:
        path: the file.
        threads: threads per inference; None for all cores.
        providers: onnxruntime's execution providers, best first, by full or short name, such as "cuda"; or pairs of a
            name and a mapping of options.
        max_pixels: images with more pixels are refused. Above 178 million, raise ``PIL.Image.MAX_IMAGE_PIXELS`` too.

    An embedder can be pickled: the path of the file and these options are kept. In a forked process, which lacks the
    threads of onnxruntime, it opens the file again on its first call.

    Attributes:
        dim: dimensions of the embedding.
        metric: how to compare embeddings: "cosine" (they are L2-normalised: use the dot product) or "euclidean".
        precision: precision of the weights: "fp32", "fp16" or "int8".
        input: "pixels" if preprocessing is inside the file, "tensor" if it is left to the caller.
        preprocessing: how pixels become the network's input.
        input_size: height and width of the network's input, in pixels.
        parameters: number of parameters of the network, or None if unknown.
        trained_on: name and protocol of its training data; empty if unknown.
        one_by_one: whether a batch runs one image at a time, so that an embedding does not depend on its neighbours.
        metadata: all metadata of the file.

    Raises:
        ModelError: the file, or its external data, is missing or damaged, or was not made by ``to_onnx``.
        OptionError: threads is not in 1..1024, max_pixels is below 1, or a provider is missing from this onnxruntime or
            does not start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        providers: Provider | Sequence[Provider] = ("CPUExecutionProvider",),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        path = given_path(path)
        if not path.is_file():
            found = "is not a file" if path.exists() else "does not exist"
            raise ModelError(f"{path} {found}. Check the path of the ONNX file.")
        if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS):
            raise OptionError(
                f"threads is {shown(threads)}; it must be a whole number in 1..{_MOST_THREADS}, or None for all cores."
            )
        if not isinstance(max_pixels, int) or max_pixels < 1:
            raise OptionError(f"max_pixels is {shown(max_pixels)}; it must be a whole number of at least 1.")
        providers = known_providers(providers)
        self._arguments = (path.absolute(), threads, providers, max_pixels)
        require_intact(path)
        self._session, self._process = open_session(path, threads, providers), os.getpid()
        self.metadata: dict[str, Any] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = [(given.name, given.type) for given in self._session.get_inputs()]
        kind = _INPUTS.get(inputs[0]) if len(inputs) == 1 else None
        made = [output.name for output in self._session.get_outputs()] == ["embedding"]
        if self.metadata.get("schema") != SCHEMA or kind is None or not made:
            raise ForeignModelError(
                f"{path} was not made by to_onnx: its metadata or its input, image or tensor, is missing. Export it "
                "again."
            )
        self.path = path
        self.input = kind
        said = read_metadata(path, self.metadata)
        self.dim, self.metric, self.precision = said.dim, said.metric, said.precision
        self.parameters, self.one_by_one = said.parameters, said.one_by_one
        self.trained_on, self.teacher = said.data, said.teacher
        self.preprocessing = said.preprocessing
        self.input_size = said.preprocessing.input_size

    def __repr__(self) -> str:
        return (
            f"Embedder({str(self.path)!r}: {self.input} to {self.dim} dimensions, {self.metric}, {self.precision}, "
            f"{self.input_size[0]} x {self.input_size[1]})"
        )

    def _repr_html_(self) -> str:
        facts = {
            "file": self.path,
            "takes": self.input,
            "prepared": preprocessing_in_words(self.preprocessing.as_pretrained_cfg()),
            "dimensions": self.dim,
            "metric": self.metric,
            "precision": self.precision,
            "parameters": "unknown" if self.parameters is None else f"{self.parameters:,}",
            "trained on": self.trained_on.get("name", "unknown"),
        }
        return html_table(facts.items())

    def __reduce__(self) -> tuple[type[Embedder], tuple[Any, ...]]:
        return type(self), self._arguments

    def __call__(self, images: ImageLike | Iterable[ImageLike], batch_size: int = 32) -> np.ndarray:
        """Embed one image or several.

        Args:
            images: a path, the bytes of an image file, a file open for reading bytes, a PIL image or a uint8 array
                ``(H, W)``, ``(H, W, 1 or 3 or 4)``; or several of them, or one array ``(N, H, W, 3)``. EXIF rotation is
                applied; transparent pixels become white. If ``input`` is "tensor": a float32 array ``(3, H, W)`` of
                ``input_size``, preprocessed as the metadata says; or several of them, or one array ``(N, 3, H, W)``.
                Tensors on the CPU count as arrays.
            batch_size: largest number of images in one inference. Only consecutive images of equal size share one, and
                none do in int8 by a dynamic scheme.

        Returns:
            float32 ``(dim,)`` for one image, ``(N, dim)`` for several.

        Raises:
            DataError: an image cannot be read, or is not what this file takes.
            OptionError: batch_size is below 1.
        """
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}; it must be at least 1.")
        most = 1 if self.one_by_one else batch_size
        if _is_one(images):
            row: np.ndarray = self._embed([self._prepared(images, "")])[0]
            return row
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise DataError(f"{type(images).__name__} is neither an image nor a list of images. Pass a list.")
        rows: list[np.ndarray] = []
        batch: list[np.ndarray] = []
        for place, image in enumerate(images):
            pixels = self._prepared(image, f"{place} of those given")
            if batch and (len(batch) == most or pixels.shape != batch[0].shape):
                rows.append(self._embed(batch))
                batch = []
            batch.append(pixels)
        if batch:
            rows.append(self._embed(batch))
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def _prepared(self, image: Any, name: str) -> np.ndarray:
        if self.input == "pixels":
            return require_pixels(image, name, self._arguments[-1])
        return self._tensor(image)

    def _embed(self, batch: list[np.ndarray]) -> np.ndarray:
        if self._process != os.getpid():
            path, threads, providers, _ = self._arguments
            _OF_PARENTS.append(self._session)
            self._session, self._process = open_session(path, threads, providers), os.getpid()
        name = "image" if self.input == "pixels" else "tensor"
        (embeddings,) = self._session.run(["embedding"], {name: np.stack(batch)})
        return np.asarray(embeddings, dtype=np.float32)

    def _tensor(self, image: Any) -> np.ndarray:
        """Return an array that the file can take, or raise an error that says what it takes."""
        shape = (3, *self.input_size)
        found = type(image).__name__
        if hasattr(image, "__array__") and not isinstance(image, Image.Image):
            try:
                image = np.asarray(image)
            except (RuntimeError, TypeError, ValueError) as error:  # a tensor with gradients, or on another device
                raise DataError(f"A {found} cannot be converted to a numpy array ({first_line(error)}).") from error
            if image.dtype == np.float32 and image.shape == shape:
                return image  # type: ignore[no-any-return]
            found = f"{image.dtype} {image.shape}"
        prepared = preprocessing_in_words(self.preprocessing.as_pretrained_cfg())
        raise DataError(
            f"{self.path} leaves preprocessing to the caller and takes float32 arrays {shape}, found {found}. Give "
            f"images {prepared}; or export the model with input pixels."
        )


def _is_one(images: Any) -> bool:
    """Return whether this is one image rather than several."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        return True
    if not hasattr(images, "__array__"):
        return False
    several = getattr(getattr(images, "dtype", None), "kind", "") in ("O", "U")  # such as an array of paths
    return not several and getattr(images, "ndim", 0) <= 3


def preprocessing_in_words(preprocessing: Mapping[str, Any]) -> str:
    """Describe the preprocessing in words, as a participle phrase.

    Args:
        preprocessing: the entry in a file's metadata; see docs/formats.md.
    """
    _, height, width = preprocessing["input_size"]
    share = preprocessing["crop_pct"]
    size = f"{int(height / share)} x {int(width / share)} pixels ({preprocessing['interpolation']}, antialiased)"
    resized = f"squashed to {size}" if preprocessing["crop_mode"] == "squash" else f"resized to cover {size}"
    mean, std = (", ".join(f"{value:g}" for value in preprocessing[key]) for key in ("mean", "std"))
    return (
        f"{resized}, cropped at the centre to {height} x {width}, scaled to [0, 1] and normalised with mean ({mean}) "
        f"and deviation ({std})"
    )
