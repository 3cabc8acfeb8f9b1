"""The models under validation behind one interface: how each embeds an image set, and how each is timed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.benchmark.timing import median_and_p95, thread_counts, timed_in_turn
from export.embedding.cache import EmbeddingCache
from export.index.gallery import embed_images
from export.runtime import Embedder
from zoo.arguments import TeacherLike, same_place
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import ForeignModelError, ModelError
from zoo.formats.onnx_content import digest_of, size_of
from zoo.models.embedding import dtype_of, fastest_device
from zoo.models.facts import ModelFacts, facts_of
from zoo.models.network import summary_of
from zoo.models.preprocessing import Preprocess
from zoo.progress import progress
from zoo.teachers.address import path_of
from zoo.teachers.base import PixelsTeacher, Teacher
from zoo.teachers.families.tower import Tower
from zoo.teachers.opening import open_teacher
from zoo.teachers.torch_module import TorchTeacher


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """One model under validation.

    Attributes:
        stage: "teacher", "student", "onnx-fp32" and the like; unique in a report.
        source: path or name it was given by.
        embed: embeds an image set; returns float32 ``(N, D)``.
        embed_one: takes a number of threads and returns a function that embeds one image, uint8 ``(H, W, 3)``; None if
            nothing can be timed.
        metric: "cosine" or "euclidean".
        dim: dimensions of the embedding, or None if unknown before one is made.
        parameters: number of parameters of the network, or None if unknown.
        bytes: size of the weight file, or None if there is none.
        runtime: what runs it: "torch" or "onnxruntime"; "" for ready embeddings.
        facts: how it was made, as recorded in its file or folder.
        architecture: timm's name of the architecture, or None if unknown.
        foreign: whether it was made by another tool; gates ignore such models next to others.
        notes: sentences on assumptions and anything else to know about it.
        digest: changes when its embeddings do; empty if unknown.
    """

    stage: str
    source: str
    embed: Callable[[ImageSet], np.ndarray]
    embed_one: Callable[[int], Callable[[np.ndarray], object]] | None
    metric: str
    dim: int | None
    parameters: int | None
    bytes: int | None
    runtime: str
    facts: ModelFacts = field(default_factory=ModelFacts)
    architecture: str | None = None
    foreign: bool = False
    notes: tuple[str, ...] = ()
    digest: str = ""


def open_models(
    reference: Teacher | None, given: TeacherLike | None, models: Sequence[TeacherLike], cache: EmbeddingCache
) -> list[MeasuredModel]:
    """Return the teacher, if any, and then the models, each with a unique stage name.

    Args:
        reference: the opened teacher.
        given: the teacher as the user gave it.
        models: anything that can be a teacher.
        cache: stores their embeddings.

    Raises:
        ModelError: a model is missing or broken.
    """
    opened = _named([_model(model) for model in models])
    opened = opened if reference is None else [_teacher(reference, given), *opened]
    return [replace(model, embed=cache.through(model.embed, model.digest)) for model in opened]


def place_of(model: TeacherLike) -> Hashable:
    """Return a key that identifies a model: the resolved path of a file or folder, else the name or the object's id."""
    path = path_of(model)
    if path is not None:
        return path.resolve()
    return str(model) if isinstance(model, str | Path) else id(model)


def _model(given: TeacherLike) -> MeasuredModel:
    path = path_of(given)
    if path is not None and path.suffix == ".onnx":
        try:
            return _onnx(path)
        except ForeignModelError:
            pass
    elif path is not None and not path.exists():
        raise ModelError(
            f"Model {path} does not exist. Give a model folder, an .onnx file, or whatever may be a teacher, such as "
            "hf:NAME."
        )
    opened = open_teacher(given if path is None else path)
    if isinstance(opened, TorchTeacher):
        is_ours = path is not None and not isinstance(opened.module, Tower)
        weights = path / "model.safetensors" if path is not None else None
        found = _torch("student" if is_ours else opened.name, opened, str(path or opened.name), weights)
        return found if is_ours else replace(found, foreign=True, notes=opened.notes)
    return _foreign(opened.name, opened, given)


def _teacher(reference: Teacher, given: object) -> MeasuredModel:
    path = path_of(given)
    if isinstance(reference, TorchTeacher):
        weights = path / "model.safetensors" if path is not None and path.is_dir() else None
        source = str(given) if isinstance(given, str | Path) else reference.name
        return _torch("teacher", reference, source, weights)
    if path is not None and path.suffix == ".onnx":
        try:
            return replace(_onnx(path), stage="teacher")
        except ModelError:
            pass  # not made by export
    return replace(_foreign("teacher", reference, given), foreign=False, notes=())


def _foreign(stage: str, model: Teacher, given: object) -> MeasuredModel:
    """Return a model that is called like a teacher: made by another tool, in another runtime, or ready embeddings."""
    source = model.source or (str(given) if isinstance(given, str | Path) else model.name)
    if not isinstance(model, PixelsTeacher):
        return MeasuredModel(
            stage,
            source,
            model.embed_images,
            None,
            model.metric,
            None,
            model.parameters(),
            None,
            model.runtime,
            foreign=not model.ships,
            notes=model.notes,
        )

    def timed(threads: int) -> Callable[[np.ndarray], object]:
        alone = model.with_threads(threads)

        def embed_one(pixels: np.ndarray) -> object:
            torch.set_num_threads(threads)
            return alone.embed_pixels(pixels)

        return embed_one

    ours = model.made_by_export
    return MeasuredModel(
        stage,
        source,
        model.embed_images,
        timed,
        model.metric,
        model.dim,
        None if ours is None else ours.parameters,
        None if model.path is None else _size(model.path),
        model.runtime,
        ModelFacts() if ours is None else ModelFacts(data=ours.data, teacher=ours.teacher or None),
        None if ours is None else ours.architecture,
        foreign=not model.ships,
        notes=model.notes,
        digest="" if model.path is None else model.digest,
    )


def _size(file: Path) -> int:
    """Return the size of a file in bytes, including files that an ONNX file refers to."""
    return size_of(file) if file.suffix == ".onnx" else file.stat().st_size


def _torch(stage: str, model: TorchTeacher, source: str, weights: Path | None) -> MeasuredModel:
    prepare = Preprocess(model.preprocessing)

    def timed(threads: int) -> Callable[[np.ndarray], object]:
        def embed_one(pixels: np.ndarray) -> object:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                batch = prepare(torch.from_numpy(pixels)[None])
                return model.module(batch.to(dtype_of(model.module), memory_format=torch.channels_last))

        return embed_one

    def embed_all(images: ImageSet) -> np.ndarray:
        try:
            return model.to(fastest_device()).embed_images(images)
        finally:
            model.to(torch.device("cpu"))  # it is timed there

    parameters = model.parameters()
    size = weights.stat().st_size if weights is not None and weights.is_file() else None
    summary = summary_of(model.module)
    dim = summary["dim"] or None  # 0 for a network without a head
    return MeasuredModel(
        stage,
        source,
        embed_all,
        timed,
        model.metric,
        dim,
        parameters,
        size,
        "torch",
        facts_of(model.module),
        summary["architecture"],
        digest=f"torch {model.digest}",
    )


def _onnx(path: Path) -> MeasuredModel:
    embedder = Embedder(path)
    preprocess = Preprocess(embedder.preprocessing)

    def prepared(pixels: np.ndarray) -> np.ndarray:
        if embedder.input == "pixels":
            return pixels
        return np.asarray(preprocess(torch.from_numpy(pixels)[None])[0])

    def embed(images: ImageSet) -> np.ndarray:
        if embedder.input == "pixels":
            return embed_images(embedder, images)
        indices = progress(range(len(images)), "embedding")
        return np.asarray(embedder(prepared(images.pixels(i)) for i in indices))

    def timed(threads: int) -> Callable[[np.ndarray], object]:
        embed_one = Embedder(path, threads=threads)

        def call(pixels: np.ndarray) -> object:
            torch.set_num_threads(threads)
            return embed_one(prepared(pixels))

        return embed_one if embedder.input == "pixels" else call

    return MeasuredModel(
        stage=f"onnx-{embedder.precision}",
        source=str(path),
        embed=embed,
        embed_one=timed,
        metric=embedder.metric,
        dim=embedder.dim,
        parameters=embedder.parameters,
        bytes=size_of(path),
        runtime="onnxruntime",
        facts=ModelFacts(data=embedder.trained_on, teacher=embedder.teacher or None),
        architecture=embedder.metadata.get("architecture"),
        digest=f"onnx {digest_of(path)}",
    )


def _named(models: list[MeasuredModel]) -> list[MeasuredModel]:
    """Make the stages unique: a second ``onnx-fp32`` becomes ``onnx-fp32-2``."""
    seen: dict[str, int] = {}
    named = []
    for model in models:
        seen[model.stage] = count = seen.get(model.stage, 0) + 1
        named.append(model if count == 1 else replace(model, stage=f"{model.stage}-{count}"))
    return named


def latencies(models: list[MeasuredModel], images: ImageSet, runs: int) -> dict[str, list[dict[str, Any]]]:
    """Time all models in turn, so that other load on the machine affects all of them alike.

    Returns:
        For each stage, one entry each for 1, 2 and all threads: ``{"median", "p95"}`` in milliseconds, ``"threads"``.
    """
    times: dict[str, list[dict[str, Any]]] = {model.stage: [] for model in models}
    if runs < 1:
        return times
    shown = [images.pixels(i) for i in range(min(len(images), 16))]
    before = torch.get_num_threads()
    for threads in thread_counts():
        calls = {c.stage: _on(c.embed_one(threads), shown) for c in models if c.embed_one is not None}
        for stage, values in timed_in_turn(calls, runs).items():
            times[stage].append(median_and_p95(values) | {"threads": threads})
    torch.set_num_threads(before)
    return times


def _on(call: Callable[[np.ndarray], object], shown: list[np.ndarray]) -> Callable[[int], object]:
    return lambda run: call(shown[run % len(shown)])


def seen_in_training(model: MeasuredModel, splits: DataSplits) -> str:
    """Return a warning if a model may have been trained on test images of this split, else an empty text."""
    name, split, here = model.facts.data.get("name"), model.facts.data.get("split"), splits.protocol.get("split")
    if name is None or not same_place(name, splits.name) or same_place(split, here):
        return ""
    return (
        f"{model.stage} was trained on {name} divided by split {split}, and is measured on it divided by {here}: "
        "it may have been trained on what it is measured on."
    )


def seen_images(splits: DataSplits) -> str:
    """Return a warning if test images are also among training or validation images, else an empty text."""
    count = splits.protocol.get("test_images_seen", 0)
    if not count:
        return ""
    return (
        f"{count} of {len(splits.test)} test images are, byte for byte, among the training or validation images: what "
        "is measured is partly of images seen. Remove one of each two."
    )


def other_teacher(model: MeasuredModel, teacher: Teacher) -> str:
    """Return a warning if a model was distilled from a different teacher, else an empty text."""
    known = model.facts.teacher or {}
    if known.get("digest") in (None, teacher.digest):
        return ""
    return (
        f"{model.stage} was distilled from teacher {known.get('name')} (digest {known['digest']}) and is compared with "
        f"{teacher.name} (digest {teacher.digest}): unless both are files of one teacher, retention is not what "
        "distillation kept."
    )
