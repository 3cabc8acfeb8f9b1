"""Directions of embeddings, for losses that compare by cosine."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """Return ``(..., D)`` vectors divided by their L2 norm; a zero vector stays zero and gets no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.masked_fill(norms == 0, torch.inf)
