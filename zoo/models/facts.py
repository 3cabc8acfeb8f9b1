"""What is known about a model beyond its weights, and how its embeddings are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import require_known

if TYPE_CHECKING:
    from torch import nn

COSINE, EUCLIDEAN = "cosine", "euclidean"


@dataclass
class ModelFacts:
    """What is known about an embedding model beyond its weights.

    Attributes:
        metric: "cosine" (compare L2-normalised embeddings) or "euclidean" (compare them as they are).
        loss: name of the loss it was trained with, or None.
        options: the resolved options of the training or distillation.
        data: name and protocol of the training data; no class names.
        teacher: name and digest of the teacher, for a student.
        measured: retrieval measures, each named by where it was measured.
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
    """Return the facts of a model; of a foreign one, the defaults (cosine metric)."""
    facts = getattr(model, "embedding_facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()


def set_facts(model: nn.Module, facts: ModelFacts) -> None:
    """Attach facts to a model."""
    model.embedding_facts = facts  # type: ignore[assignment]
