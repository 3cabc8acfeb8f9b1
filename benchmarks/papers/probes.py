"""Classification accuracy of frozen embeddings: linear probe and k nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from zoo.retrieval.nearest import comparable, nearest


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, decay: float = 1e-3
) -> float:
    """Return the accuracy of multinomial logistic regression on standardised embeddings.

    Args:
        train: embeddings to fit on, float ``(N, D)``.
        train_labels: int ``(N,)`` in 0..C-1.
        test: embeddings to measure on, float ``(M, D)``.
        test_labels: int ``(M,)``.
        decay: weight of the weights' squared norm, added to the mean cross-entropy.

    Returns:
        Accuracy in [0, 1].
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    inputs, held_out = (torch.from_numpy(((part - mean) / deviation).astype(np.float32)) for part in (train, test))
    targets = torch.from_numpy(train_labels.astype(np.int64))
    classes = int(train_labels.max()) + 1
    weight = torch.zeros(classes, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        found = (held_out @ weight.T + bias).argmax(dim=1).numpy()
    return float((found == test_labels).mean())


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    metric: str = "cosine",
    k: int = 5,
) -> float:
    """Return the accuracy of a majority vote of the k nearest neighbours; a tie goes to the class of the nearest.

    Args:
        train: embeddings of the neighbours, float ``(N, D)``.
        train_labels: int ``(N,)`` in 0..C-1.
        test: embeddings to measure on, float ``(M, D)``.
        test_labels: int ``(M,)``.
        metric: how embeddings are compared, "cosine" or "euclidean".
        k: number of neighbours that vote.

    Returns:
        Accuracy in [0, 1].
    """
    votes = train_labels[nearest(comparable(test, metric), comparable(train, metric), k)]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    found = votes[np.arange(len(votes)), counts.argmax(axis=1)]  # at equal counts argmax takes the nearest
    return float((found == test_labels).mean())
