"""Baselines without training, measured beside every model: pretrained networks before training, and PCA projections."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.embedding.cache import EmbeddingCache
from export.report.measured_models import MeasuredModel
from export.report.searches import Search, exact_search
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import ModelError, UserError
from zoo.files import digest
from zoo.models.embedding import embed_pooled, fastest_device
from zoo.models.facts import COSINE
from zoo.models.network import linear_head_of, preprocessing_of, summary_of
from zoo.retrieval.nearest import comparable
from zoo.retrieval.projection import principal_directions
from zoo.teachers.base import Teacher
from zoo.teachers.ready import ArrayTeacher

log = logging.getLogger(__name__)

STUDENT, TEACHER_PCA, TEACHER = "student", "teacher-pca", "teacher"
"""Kinds: a student's network before training, the teacher's embeddings by PCA, the teacher's network before training.
"""
_MOST_FITTED = 10_000  # images that a projection is fitted on
_CACHE_BYTES = 1 << 30  # decoded pixels of them kept
_ONNX_ALONE = "an .onnx file does not say which weights its network began with; give its model folder too"


class Origin(NamedTuple):
    """The pretrained network that a model was trained from, as arguments of ``create_model``."""

    arch: str
    pretrained: bool | str
    image_size: int | None
    crop_pct: float | None


@dataclass
class Baselines:
    """The baselines of a report.

    Attributes:
        searches: exact search with each baseline; its kind is in ``more["baseline"]``.
        missing: why a model has no baseline of its own pretrained network, by stage.
        notes: sentences on baselines left out.
        warnings: sentences on baselines that failed.
    """

    searches: list[Search] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_baselines(
    models: Sequence[MeasuredModel],
    teacher: Search | None,
    reference: Teacher | None,
    splits: DataSplits,
    images: ImageSet,
    cache: EmbeddingCache,
    *,
    max_unreadable: int = 10,
    seed: int = 0,
) -> Baselines:
    """Measure baselines that need no training; one that cannot be made is noted and left out.

    The baselines are: the teacher's embeddings, projected to each number of dimensions among the models; the pretrained
    network of each model folder before training, projected to the folder's dimensions; and the teacher's pretrained
    network. Projections are fitted on training and validation images.

    Args:
        models: the models under validation, without the teacher.
        teacher: search with the teacher, and its vectors of the images; None if models are measured without one.
        reference: the opened teacher.
        splits: the data.
        images: the test images to measure on.
        cache: stores embeddings.
        max_unreadable: unreadable training images left out; with more, no projection is made.
        seed: seed for the choice of training images.
    """
    maker = _Maker(teacher, reference, splits, images, cache, max_unreadable, seed)
    for size in dict.fromkeys(model.dim for model in models):
        if teacher is not None and size is not None and size < teacher.dim:
            maker.add(TEACHER_PCA, f"teacher, PCA to {size}", partial(maker.teacher_projected, size))
    failed: dict[str | None, str] = {}  # architecture -> why its pretrained network was not measured; already noted
    unknown: dict[str | None, str] = {}  # the same for folders that do not name their weights; not noted yet
    done: set[tuple[Origin, int | None]] = set()
    for model in models:
        origin = origin_of(model)
        if isinstance(origin, str):
            if model.runtime == "torch":
                unknown[model.architecture] = origin
        elif (origin, model.dim) not in done:
            done.add((origin, model.dim))
            name = f"{origin.arch} as it comes"
            if reason := maker.add(STUDENT, name, partial(maker.as_it_comes, origin, model.dim)):
                failed[model.architecture] = reason
    made = maker.made
    unsaid: dict[str, list[str]] = {}
    for model in models:
        if any(search.more["baseline"] == STUDENT and is_own(search.model, model) for search in made.searches):
            continue
        if (reason := failed.get(model.architecture, "")) == "":
            reason = unknown.get(model.architecture, _ONNX_ALONE)
            unsaid.setdefault(reason, []).append(model.stage)
        made.missing[model.stage] = reason
    for reason, stages in unsaid.items():
        made.notes.append(f"No baseline of the network as it comes for {' and '.join(stages)}: {reason}.")
    if teacher is None:
        return made
    origin = origin_of(teacher.model)
    if isinstance(origin, str):
        if isinstance(teacher.model.facts.options.get("pretrained"), str):
            made.notes.append(f"No baseline of the network as it comes for teacher: {origin}.")
    else:
        maker.add(TEACHER, f"{origin.arch} as it comes", partial(maker.as_it_comes, origin, None))
    return made


def origin_of(model: MeasuredModel) -> Origin | str:
    """Return the pretrained network that a model was trained from, or why it is unknown.

    A model folder names its weight file without a path; :func:`~zoo.models.making.pretrained_source` finds it.
    """
    options = model.facts.options
    if "pretrained" not in options:
        return "nothing is known of the weights it began with"
    arch, pretrained = options.get("arch"), options["pretrained"]
    size, crop = options.get("image_size"), options.get("crop_pct")
    if not isinstance(arch, str) or not (pretrained is True or (isinstance(pretrained, str) and pretrained)):
        return "it was not made from pretrained weights"
    if isinstance(size, bool) or not isinstance(size, int | None) or not isinstance(crop, float | int | None):
        return "what it was made with has no usual values"  # anyone may have edited the folder
    folder = Path(model.source)
    if isinstance(pretrained, str) and (folder / "config.json").is_file():
        from zoo.models.making import pretrained_source

        try:
            found = pretrained_source(folder)
        except (ModelError, OSError) as error:
            return str(error).rstrip(".")
        if not isinstance(found, Path):
            return f"the weights it began with, {Path(pretrained).name}, are not found, or are others now"
        pretrained = str(found)
    return Origin(arch, pretrained, size, crop)


def is_own(baseline: MeasuredModel, model: MeasuredModel) -> bool:
    """Return whether a baseline is a model's own pretrained network and has no more dimensions than the model."""
    return baseline.architecture == model.architecture and (baseline.dim or 0) <= (model.dim or 0)


class _LeftOutError(UserError):
    """A baseline does not apply to the data, which is no error."""


class _Maker:
    """Makes baselines one by one, and keeps what they share."""

    def __init__(
        self,
        teacher: Search | None,
        reference: Teacher | None,
        splits: DataSplits,
        images: ImageSet,
        cache: EmbeddingCache,
        max_unreadable: int,
        seed: int,
    ) -> None:
        self.teacher, self.reference, self.splits, self.images = teacher, reference, splits, images
        self.cache, self.max_unreadable, self.seed = cache, max_unreadable, seed
        self.made = Baselines()
        self._named: Counter[str] = Counter()

    def add(self, kind: str, name: str, make: Callable[[], tuple[MeasuredModel, np.ndarray]]) -> str:
        """Add a baseline, or a note on why it is missing.

        Args:
            kind: kind of the baseline.
            name: its stage, or the beginning of it.
            make: returns the baseline and its vectors of the images.

        Returns:
            Why it is missing; empty if it was added.
        """
        log.info("measuring %s (baseline)", name)
        try:
            model, vectors = make()
            self._named[model.stage] += 1
            if (count := self._named[model.stage]) > 1:
                model = replace(model, stage=f"{model.stage} ({count})")
            self.made.searches.append(exact_search(model, vectors, self.images, {"baseline": kind}))
        except _LeftOutError as reason:
            self._note(f"No baseline {name}: {reason}.")
            return str(reason)
        except (UserError, OSError) as error:
            self.made.warnings.append(f"No baseline {name}: {error}")
            return str(error)
        return ""

    def teacher_projected(self, size: int) -> tuple[MeasuredModel, np.ndarray]:
        """Return the teacher with its embeddings projected to ``size`` dimensions, and its vectors."""
        assert self.teacher is not None
        model, vectors = self.teacher.model, self.teacher.vectors
        assert vectors is not None
        directions = self._directions(self._teacher_of_training, size, model.metric)

        def embed(images: ImageSet) -> np.ndarray:
            return np.asarray(comparable(model.embed(images), model.metric) @ directions.T)

        named = replace(model, stage=f"teacher, PCA to {size}", embed=embed, embed_one=None, dim=size)
        return named, np.asarray(comparable(vectors, model.metric) @ directions.T)

    def as_it_comes(self, origin: Origin, size: int | None) -> tuple[MeasuredModel, np.ndarray]:
        """Return a pretrained network and its pooled features, projected if they have more than ``size`` dimensions.

        Args:
            origin: the network.
            size: number of dimensions; None to leave the features unprojected.
        """
        from zoo.models.making import create_model  # with timm, which files of ONNX do without

        network = create_model(
            origin.arch, size or 1, origin.pretrained, None, origin.image_size, origin.crop_pct, COSINE
        ).to(fastest_device())
        head = linear_head_of(network)
        if head is None:
            raise ModelError(f"The head of {origin.arch} is not one linear layer, so its features are unknown.")
        width, whole = int(head.weight.shape[1]), sum(parameter.numel() for parameter in network.parameters())
        stage, dim, parameters = f"{origin.arch} as it comes", width, whole - sum(p.numel() for p in head.parameters())
        # Published weights depend on the version of timm, which the cache adds to the key.
        weights = "published" if origin.pretrained is True else digest(Path(str(origin.pretrained)))
        key = ("pooled", origin.arch, weights, str(preprocessing_of(network)))
        pooled_of = self.cache.through(partial(embed_pooled, network), *key)
        directions = None
        if size is not None and size < width:
            directions = self._directions(pooled_of(self._training), size, COSINE)
            stage, dim, parameters = f"{stage}, PCA to {size}", size, parameters + size * width

        def embed(images: ImageSet) -> np.ndarray:
            pooled = comparable(pooled_of(images), COSINE)
            return np.asarray(pooled if directions is None else pooled @ directions.T)

        source = "timm's published weights" if origin.pretrained is True else str(origin.pretrained)
        architecture = summary_of(network)["architecture"]
        model = MeasuredModel(
            stage, source, embed, None, COSINE, dim, parameters, None, "torch", architecture=architecture
        )
        return model, embed(self.images)

    @cached_property
    def _untested(self) -> ImageSet:
        """Training and validation images; those held out in training may be used here."""
        parts = (self.splits.train, self.splits.validation)
        return ImageSet([name for part in parts for name in part.ids], [at for part in parts for at in part.sources])

    @cached_property
    def _training(self) -> ImageSet:
        """The images that projections are fitted on, read once."""
        return self._drawn(np.arange(len(self._untested))).checked(self.max_unreadable, _CACHE_BYTES)

    @cached_property
    def _teacher_of_training(self) -> np.ndarray:
        """The teacher's embeddings of training images; from ready embeddings, those that exist."""
        assert self.teacher is not None
        if not isinstance(self.reference, ArrayTeacher):
            return self.teacher.model.embed(self._training)
        held = [row for row, name in enumerate(self._untested.ids) if self.reference.holds(name)]
        if len(self._untested) >= 2 > len(held):
            raise _LeftOutError(
                f"{self.reference.name} has embeddings of {len(held)} training images, and PCA needs two"
            )
        return self.reference.embed_images(self._drawn(np.array(held, dtype=np.int64)))

    def _drawn(self, rows: np.ndarray) -> ImageSet:
        """Return images by rows, at most ``_MOST_FITTED``, drawn at random."""
        if len(rows) < 2:
            raise _LeftOutError(f"{self.splits.name} has no training images that PCA could be fitted on")
        if len(rows) > _MOST_FITTED:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, _MOST_FITTED, replace=False))
        return self._untested.subset(rows)

    def _directions(self, vectors: np.ndarray, size: int, metric: str) -> np.ndarray:
        if len(vectors) <= size:
            self._note(f"PCA to {size} is fitted on {len(vectors)} training images, too few for that many dimensions.")
        return principal_directions(vectors, size, metric)

    def _note(self, sentence: str) -> None:
        if sentence not in self.made.notes:
            self.made.notes.append(sentence)
