"""Time and memory of one way to evaluate, in its own process: seconds, and memory beyond the vectors.

    python benchmarks/speed/evaluation.py WAY COUNT DIM

Prints a line of JSON. It imports nothing of this project unless WAY is "ours", so it runs in an environment that has
only the other library. Vectors are unit vectors around class centres, with a spread that falls along the dimensions, as
in embeddings. Classes have six images on average. Every image is a query against all others.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

KS = (1, 2, 4, 8)


def vectors_of(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 ``(N, D)`` unit vectors and int64 ``(N,)`` classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, max(count // 6, 2), count)
    vectors = generator.standard_normal((labels.max() + 1, dim), dtype=np.float32)[labels]
    vectors += generator.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.sqrt(1 + np.arange(dim, dtype=np.float32) / 8)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, labels


def ours(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Recall@K, R-Precision and MAP@R by zoo.retrieval; the function returns MAP@R."""
    import torch  # noqa: F401  (loaded before timing starts, as for the other libraries)

    from zoo.data.image_set import ImageSet
    from zoo.retrieval.measures import measure

    names = [str(number) for number in range(labels.max() + 1)]
    files = [str(row) for row in range(len(labels))]
    images = ImageSet(files, [Path(file) for file in files], labels, names)
    return lambda: float(measure(vectors, images, ks=KS).average_precision.mean())


def metric_learning(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """The same measures by pytorch-metric-learning."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=wanted, k="max_bin_count", device=torch.device("cpu"))
    values, classes = torch.from_numpy(vectors), torch.from_numpy(labels)
    return lambda: float(calculator.get_accuracy(values, classes)["mean_average_precision_at_r"])


def oml(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Recall@K and MAP@5 by open-metric-learning."""
    import torch
    from oml.functional.knn import batched_knn
    from oml.functional.metrics import calc_retrieval_metrics

    values, classes = torch.from_numpy(vectors), torch.from_numpy(labels)
    everything = torch.arange(len(classes))

    def run() -> float:
        _, found, wanted = batched_knn(values, everything, everything, top_n=max(KS), labels_gt=classes)
        metrics = calc_retrieval_metrics(found, wanted, cmc_top_k=KS, map_top_k=(5,), verbose=False)
        return float(metrics["map"][5])

    return run


def faiss_alone(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Only faiss's exact search for as many neighbours."""
    import faiss

    depth = int(np.bincount(labels).max()) + 1
    return lambda: float(faiss.knn(vectors, vectors, depth)[1][0, 0])


def products_alone(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Only the float32 products of all vectors, by torch."""
    import torch

    values = torch.from_numpy(vectors)
    room = torch.empty(2048, len(values))

    def run() -> float:
        for start in range(0, len(values), 2048):
            part = values[start : start + 2048]
            torch.mm(part, values.T, out=room[: len(part)])
        return float(room[0, 0])

    return run


WAYS = {
    "ours": ours,
    "pytorch-metric-learning": metric_learning,
    "open-metric-learning": oml,
    "faiss alone": faiss_alone,
    "float32 products alone": products_alone,
}


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yield a list that holds the peak memory of the process in bytes, read from /proc every 5 ms."""
    found, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            found[0] = max(found[0], held)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Measure one way."""
    way, count, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    vectors, labels = vectors_of(count, dim)
    WAYS[way](*vectors_of(600, dim))()  # imports and first calls
    run = WAYS[way](vectors, labels)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with peak() as found:
        began = time.perf_counter()
        value = run()
        elapsed = time.perf_counter() - began
    print(
        json.dumps({"way": way, "seconds": round(elapsed, 2), "mb": round((found[0] - before) / 1e6), "value": value})
    )


if __name__ == "__main__":
    main()
