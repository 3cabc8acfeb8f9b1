"""Embeds the images of a folder in several processes: python pool.py MODEL.onnx FOLDER OUT.npz [spawn|fork]."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np

from export.runtime import Embedder
from zoo.images import IMAGE_SUFFIXES

embed: Embedder


def start(model: str) -> None:
    """Open the model in a process of the pool, with one thread: the processes share the cores."""
    global embed
    embed = Embedder(model, threads=1)


def embedded(files: list[Path]) -> np.ndarray:
    """Embed some files in a process of the pool; float32 ``(N, dim)``."""
    return embed(files)


def main(model: str, folder: str, out: str, method: str = "spawn") -> None:
    """Embed a folder and save names and vectors."""
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    parts = [files[start : start + 64] for start in range(0, len(files), 64)]
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with multiprocessing.get_context(method).Pool(processes, start, [model]) as pool:
        rows = np.concatenate(pool.map(embedded, parts, chunksize=1))
    np.savez(out, ids=[str(file.relative_to(folder)) for file in files], embeddings=rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
