"""Continuous labels of two real data sets, written as files that ``continuous_labels`` takes.

    python -m benchmarks.papers.label_distances omniglot-strokes FOLDER strokes.npz
    python -m benchmarks.papers.label_distances grocery-text FOLDER text.npz

omniglot-strokes: FOLDER holds the archives images_background_small1 and 2 and strokes_background_small1 and 2. The
label distance of two drawings is the Chamfer distance of their pen paths. For ``folder:FOLDER`` with the split of
configs/splits/omniglot.yaml; takes some minutes on one core.

grocery-text: FOLDER is the Grocery Store repository, or a zip archive of it. The label of a photograph is the TF-IDF
vector of its product's description, to compare with ``label_metric: cosine``. For ``grocery:FOLDER``.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.papers.protocol import SPLIT
from zoo.data import load_data
from zoo.data.published.layout import Root
from zoo.errors import DataError
from zoo.files import replacing

POINTS = 64
_PAIRS = 64  # pairs compared at a time: 64 x 64 x 64 float32 numbers fit in the cache


def main() -> None:
    """Write the labels of one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["omniglot-strokes", "grocery-text"])
    parser.add_argument("folder", type=Path, help="where the data is")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    options = parser.parse_args()
    if options.task == "omniglot-strokes":
        write_stroke_distances(options.folder, options.out)
    else:
        write_text_vectors(options.folder, options.out)


def write_stroke_distances(folder: Path, out: Path) -> None:
    """Write ``ids`` and ``distances`` of all training and test drawings of the protocol."""
    data = load_data(f"folder:{folder}", SPLIT, validation=0)
    ids = [*data.train.ids, *data.test.ids]
    paths = np.stack([normalised(resampled(strokes)) for strokes in read_strokes(folder, ids)])
    with replacing(out) as temporary:
        np.savez(temporary, ids=np.array(ids), distances=chamfer_distances(paths))


def write_text_vectors(folder: Path, out: Path) -> None:
    """Write ``ids`` and ``vectors`` of all photographs."""
    data = load_data(f"grocery:{folder}", "all-test", validation=0)
    assert data.test.labels is not None
    vectors = tf_idf(read_descriptions(folder))
    with replacing(out) as temporary:
        np.savez_compressed(temporary, ids=np.array(data.test.ids), vectors=vectors[data.test.labels])


def read_strokes(folder: Path, ids: Sequence[str]) -> list[list[np.ndarray]]:
    """Read the pen strokes of drawings from the archives next to those of the images.

    Args:
        folder: folder of the archives.
        ids: ids of the images, such as ``images_background_small1/Greek/character01/0394_01.png``.

    Returns:
        The strokes of each drawing, float64 ``(n, 2)`` each.

    Raises:
        DataError: an archive, or a drawing in it, is missing or malformed; the message names it.
    """
    drawings = []
    archives: dict[str, zipfile.ZipFile] = {}
    try:
        for name in ids:
            member = re.sub(r"^images_(.*)\.png$", r"strokes_\1.txt", name)
            part = member.partition("/")[0]
            try:
                if part not in archives:
                    archives[part] = zipfile.ZipFile(folder / f"{part}.zip")
                drawings.append(parse_strokes(archives[part].read(member).decode("utf-8")))
            except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
                raise DataError(f"{folder / part}.zip: strokes {member} cannot be read ({error}).") from error
    finally:
        for archive in archives.values():
            archive.close()
    return drawings


def parse_strokes(text: str) -> list[np.ndarray]:
    """Parse the strokes of a drawing, float64 ``(n, 2)`` each: START, then lines ``x,y,ms``, BREAK after each stroke.

    Raises:
        ValueError: a line is something else, or there is no point.
    """
    strokes: list[list[list[float]]] = [[]]
    for line in text.split():
        if line == "BREAK":
            strokes.append([])
        elif line != "START":
            x, y, _ = line.split(",")
            strokes[-1].append([float(x), float(y)])
    found = [np.array(stroke) for stroke in strokes if stroke]
    if not found:
        raise ValueError("it has no point")
    return found


def resampled(strokes: Sequence[np.ndarray], count: int = POINTS) -> np.ndarray:
    """Return evenly spaced points along the ink, from the first point to the last; pen lifts have no length.

    Args:
        strokes: float ``(n, 2)`` each, in the order of drawing.
        count: number of points, at least 2.

    Returns:
        float64 ``(count, 2)``.
    """
    points = np.concatenate(strokes)
    if len(points) == 1:
        return np.repeat(points, count, axis=0)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    steps[np.cumsum([len(stroke) for stroke in strokes[:-1]], dtype=int) - 1] = 0
    along = np.concatenate([[0], np.cumsum(steps)])
    wanted = np.linspace(0, along[-1], count)
    # The segment that each point is on; if several end there, the first, so that no point is on a pen lift.
    end = np.maximum(np.searchsorted(along, wanted), 1)
    start = end - 1
    length = along[end] - along[start]
    share = np.divide(wanted - along[start], length, out=np.zeros(count), where=length > 0)
    result: np.ndarray = points[start] + share[:, None] * (points[end] - points[start])
    return result


def normalised(points: np.ndarray) -> np.ndarray:
    """Centre ``(P, 2)`` points, and scale them to a root mean square radius of 1; a single dot stays a dot."""
    centred = points - points.mean(axis=0)
    radius = np.sqrt((centred**2).sum(axis=1).mean())
    result: np.ndarray = centred / radius if radius > 1e-12 else 0 * centred
    return result


def chamfer_distances(paths: np.ndarray) -> np.ndarray:
    """Return the Chamfer distance of each pair: the mean distance from a point of one to the nearest of the other.

    It is the mean over both directions; distances are Euclidean, not squared.

    Args:
        paths: float ``(N, P, 2)``.

    Returns:
        float32 ``(N, N)``, symmetric, with a diagonal of zeros.
    """
    count, points, _ = paths.shape
    # Pairs are the last axis, so that all operations run along it.
    x, y = (np.ascontiguousarray(paths[:, :, axis].T, dtype=np.float32) for axis in (0, 1))
    distances = np.zeros((count, count), dtype=np.float32)
    squares, other = np.empty((2, points, points, _PAIRS), dtype=np.float32)
    for row in range(count):
        for start in range(row + 1, count, _PAIRS):
            part = slice(start, min(start + _PAIRS, count))
            width = part.stop - start
            square, dy = squares[:, :, :width], other[:, :, :width]
            np.subtract(x[:, row, None, None], x[None, :, part], out=square)
            np.subtract(y[:, row, None, None], y[None, :, part], out=dy)
            square *= square
            dy *= dy
            square += dy
            there = np.sqrt(square.min(axis=1)).mean(axis=0)
            back = np.sqrt(square.min(axis=0)).mean(axis=0)
            distances[row, part] = (there + back) / 2
    return distances + distances.T


def read_descriptions(folder: Path) -> list[str]:
    """Return the description of each product, in the order of their ids.

    Raises:
        DataError: a file is missing or malformed; the message names it.
    """
    root = Root(str(folder), "dataset/classes.csv")
    rows = [row for row in csv.reader(io.StringIO(root.text("dataset/classes.csv"))) if row][1:]
    try:
        files = {int(row[1]): f"dataset{row[5]}" for row in rows}
    except (IndexError, ValueError) as error:
        raise DataError(f"{root.where('dataset/classes.csv')} is malformed ({error}).") from error
    return [root.text(files[number]) for number in sorted(files)]


def tf_idf(texts: Sequence[str]) -> np.ndarray:
    """Return the TF-IDF vector of each text: the count of each word, weighted by how rare it is among the texts.

    A word in n of N texts has weight log((1 + N) / (1 + n)) + 1. Words are runs of letters in lower case, in
    alphabetical order. Vectors have length 1.

    Args:
        texts: the texts, each with at least one word.

    Returns:
        float32 ``(N, L)``.
    """
    counts = [Counter(re.findall(r"[^\W\d_]+", text.lower())) for text in texts]
    words = sorted(set().union(*counts))
    frequency = np.array([[count[word] for word in words] for count in counts], dtype=np.float64)
    vectors = frequency * (np.log((1 + len(texts)) / (1 + (frequency > 0).sum(axis=0))) + 1)
    result: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result.astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
