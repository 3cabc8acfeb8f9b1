"""Facts about a model beyond its weights, such as how its embeddings are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zoo.errors import require_known

if TYPE_CHECKING:
    from torch import nn

COSINE, EUCLIDEAN = "cosine", "euclidean"


@dataclass
class ModelFacts:
    """Facts about an embedding model beyond its weights.

    Attributes:
        metric: "cosine" (compare L2-normalised embeddings) or "euclidean" (compare them without normalisation).
        loss: name of the loss it was trained with, or None.
        options: the resolved options of the training or distillation.
        data: name and protocol of the training data; no class names.
        teacher: name and digest of the teacher, for a student.
        measured: retrieval measures, by the data they were measured on.
        versions: versions of the libraries it was made with.
    """

    metric: str = COSINE
    loss: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_known("metric", self.metric, (COSINE, EUCLIDEAN))


def facts_of(model: nn.Module) -> ModelFacts:
    """Return the facts of a model, or of the network in a wrapper; for foreign models the defaults (cosine metric)."""
    from zoo.models.wrappers import network_in  # imports torch, which users of the metric names do not need

    facts = getattr(network_in(model), "embedding_facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()


def set_facts(model: nn.Module, facts: ModelFacts) -> None:
    """Attach facts to a model."""
    model.embedding_facts = facts  # type: ignore[assignment]


def without_places(facts: ModelFacts) -> ModelFacts:
    """Return facts that can be published: absolute paths are reduced to the names of files and folders.

    ``/home/me/weights.safetensors`` becomes ``weights.safetensors``, and ``folder:/home/me/photos`` ``folder:photos``;
    digests identify the files. Relative paths stay.
    """
    kept = {name: names_only(getattr(facts, name)) for name in ("options", "data", "teacher", "measured")}
    return replace(facts, **kept)


_ABSOLUTE = re.compile(
    r"^(?P<kind>[a-z0-9_-]{2,}:(?:[\w.-]+/(?=[/~]))?)?(?:/|~|[A-Za-z]:[\\/]|\\\\)(?:.*[\\/])?(?P<name>[^\\/]+)[\\/]*$",
    re.DOTALL,
)


def names_only(value: Any) -> Any:
    """Return a JSON value with absolute paths replaced by the names of their files and folders."""
    if isinstance(value, dict):
        return {key: names_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [names_only(item) for item in value]
    if not isinstance(value, str) or not (found := _ABSOLUTE.fullmatch(value)):
        return value
    return (found["kind"] or "") + found["name"]


def told_apart(places: Sequence[str]) -> dict[str, str]:
    """Return a short unique name for each place: the last part of an absolute path, and parent folders as needed.

    ``/a/one/model.onnx`` and ``/a/two/model.onnx`` become ``one/model.onnx`` and ``two/model.onnx``. Relative paths
    and other names stay.
    """
    names = {}
    for place in dict.fromkeys(places):
        path, mark, fragment = place.partition("#")
        short = names_only(path)
        if short != path:
            parts = re.split(r"[\\/]+", path.rstrip("\\/"))[1:]
            paths = [other.partition("#")[0] for other in places]
            others = [re.split(r"[\\/]+", other.rstrip("\\/"))[1:] for other in paths if other != path]
            kept = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), 1)
            short = "/".join([short.rpartition(parts[-1])[0] + parts[-kept], *parts[len(parts) - kept + 1 :]])
        names[place] = f"{short}{mark}{fragment}"
    return names
