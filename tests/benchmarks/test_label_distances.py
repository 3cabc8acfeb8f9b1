"""The continuous labels of the two real tasks, against worked examples, plain loops and the real data."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.errors import DataError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "papers" / "label_distances.py"


@pytest.fixture(scope="module")
def tasks() -> Any:
    spec = importlib.util.spec_from_file_location("label_distances", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_strokes_are_parsed(tasks: Any) -> None:
    strokes = tasks.parse_strokes("START\n1.5,-2,0\n3,4,56\nBREAK\n5,6,70\nBREAK\n")
    assert [stroke.tolist() for stroke in strokes] == [[[1.5, -2], [3, 4]], [[5, 6]]]
    for text in ("START\nBREAK\n", "START\n1,2\nBREAK\n", "START\na,b,c\nBREAK\n"):
        with pytest.raises(ValueError):
            tasks.parse_strokes(text)


def test_points_lie_evenly_along_the_ink(tasks: Any) -> None:
    # Ten of ink: from 0 to 8 along x, then, after a lift, 2 up y.
    strokes = [np.array([[0.0, 0], [1, 0], [8, 0]]), np.array([[100.0, 0], [100, 2]])]
    expected = [[0, 0], [2, 0], [4, 0], [6, 0], [8, 0], [100, 2]]
    np.testing.assert_allclose(tasks.resampled(strokes, 6), expected)
    np.testing.assert_allclose(tasks.resampled(strokes, 11)[[8, 9, 10]], [[8, 0], [100, 1], [100, 2]])
    # Dots have no length; neither do points that are drawn twice.
    dotted = [np.array([[5.0, 5]]), np.array([[0.0, 0], [0, 0], [3, 0]]), np.array([[9.0, 9]])]
    np.testing.assert_allclose(tasks.resampled(dotted, 4), [[5, 5], [1, 0], [2, 0], [3, 0]])
    np.testing.assert_array_equal(tasks.resampled([np.array([[2.0, 3]])], 3), [[2, 3]] * 3)
    np.testing.assert_array_equal(tasks.resampled([np.array([[2.0, 3], [2, 3]])], 3), [[2, 3]] * 3)


def test_paths_are_centred_and_of_unit_radius(tasks: Any) -> None:
    points = np.random.default_rng(0).normal(3, 20, size=(64, 2))
    scaled = tasks.normalised(points)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_allclose(tasks.normalised(7 * points - 50), scaled)
    assert (tasks.normalised(np.ones((64, 2))) == 0).all()


def test_chamfer_distances_by_loops_and_by_hand(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = np.random.default_rng(0).normal(size=(9, 5, 2))
    paths[4] = paths[1][::-1]  # the same points, drawn the other way

    def one_way(a: np.ndarray, b: np.ndarray) -> float:
        return sum(min(math.dist(p, q) for q in b.tolist()) for p in a.tolist()) / len(a)

    expected = np.array([[(one_way(a, b) + one_way(b, a)) / 2 for b in paths] for a in paths])
    for pairs in (64, 3):
        monkeypatch.setattr(tasks, "_PAIRS", pairs)
        distances = tasks.chamfer_distances(paths)
        assert distances.dtype == np.float32 and distances[1, 4] == 0
        np.testing.assert_array_equal(distances, distances.T)
        np.testing.assert_allclose(distances, expected, atol=1e-6)
    # From 0 and 10 to 1 and 1: 1 and 9 there, 1 and 1 back.
    hand = tasks.chamfer_distances(np.array([[[0.0, 0], [10, 0]], [[1, 0], [1, 0]]]))
    assert hand.tolist() == [[0, 3], [3, 0]]


def test_tf_idf_by_hand(tasks: Any) -> None:
    vectors = tasks.tf_idf(["Red apple, red!", "green apple 2", "pear"])
    common, rare = math.log(4 / 3) + 1, math.log(4 / 2) + 1  # words of two texts of three, and of one
    # In the order apple, green, pear, red.
    first, second = np.array([common, 0, 0, 2 * rare]), np.array([common, rare, 0, 0])
    np.testing.assert_allclose(vectors[0], first / np.linalg.norm(first), rtol=1e-6)
    np.testing.assert_allclose(vectors[1], second / np.linalg.norm(second), rtol=1e-6)
    assert vectors[2].tolist() == [0, 0, 1, 0] and vectors.dtype == np.float32


def drawing(*points: tuple[float, float]) -> str:
    return "\n".join(["START", *(f"{x},{y},{time}" for time, (x, y) in enumerate(points)), "BREAK", ""])


@pytest.fixture
def omniglot(tmp_path: Path) -> Path:
    """Lines and corners in the layout of the two small background sets; a character that the protocol leaves out."""
    line, corner = [(0.0, 0.0), (10.0, 0.0)], [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)]
    pixels = tmp_path / "pixels.png"
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(pixels)
    folder = tmp_path / "omniglot"
    folder.mkdir()
    for part, characters in (
        ("small1", {"Balinese/character01": line, "Balinese/character02": corner}),
        ("small2", {f"{name}/character01": line for name in ("Japanese_(katakana)", "Sanskrit", "Tagalog", "Greek")}),
    ):
        with (
            zipfile.ZipFile(folder / f"images_background_{part}.zip", "w") as images,
            zipfile.ZipFile(folder / f"strokes_background_{part}.zip", "w") as strokes,
        ):
            for name, points in characters.items():
                for i in (1, 2):
                    images.write(pixels, f"images_background_{part}/{name}/0001_{i:02}.png")
                    if not name.startswith("Greek"):
                        text = drawing(*((3 * x, 3 * y + i) for x, y in points))
                        strokes.writestr(f"strokes_background_{part}/{name}/0001_{i:02}.txt", text)
    return folder


def test_stroke_distances_are_labels_of_the_protocol(omniglot: Path, tmp_path: Path) -> None:
    out = tmp_path / "strokes.npz"
    words = [sys.executable, "-m", "benchmarks.papers.label_distances", "omniglot-strokes", str(omniglot), str(out)]
    subprocess.run(words, cwd=SCRIPT.parents[2], check=True)
    split = f"list:{SCRIPT.parents[2] / 'configs/splits/omniglot.yaml'}"
    data = load_data(f"folder:{omniglot}", split, 0, continuous_labels=out)
    assert (len(data.train), len(data.test)) == (4, 6)
    assert data.train.continuous is not None and data.test.continuous is not None
    distances = data.train.continuous.distances(np.arange(4), np.arange(4))
    np.testing.assert_allclose(distances[:2, :2], 0, atol=1e-6)  # size and place do not count
    assert (distances[:2, 2:] > 0.1).all()
    assert data.test.continuous.distances(np.arange(6), np.arange(6)).max() < 1e-6


def test_missing_strokes_are_named(tasks: Any, omniglot: Path) -> None:
    with pytest.raises(DataError, match=r"strokes_background_small2\.zip: strokes .*/Greek/character01/0001_01\.txt"):
        tasks.read_strokes(omniglot, ["images_background_small2/Greek/character01/0001_01.png"])
    with pytest.raises(DataError, match=r"strokes_background_small3\.zip"):
        tasks.read_strokes(omniglot, ["images_background_small3/Greek/character01/0001_01.png"])


def test_text_vectors_are_labels(tasks: Any, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    texts = {"Pear": (1, "a green pear"), "Apple": (0, "a red apple"), "Leek": (2, "green and white")}
    lines = ["Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic,Description"]
    for name, (number, text) in texts.items():
        lines.append(f"{name},{number},{name},{number},/{name}.jpg,/{name}.txt")
        (root / f"{name}.txt").write_text(text)
        Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(root / f"{name}.jpg")
    (root / "classes.csv").write_text("\n".join(lines))
    for part, names in (("train", ["Pear", "Apple"]), ("val", ["Leek"]), ("test", [])):
        (root / f"{part}.txt").write_text("\n".join(f"{name}.jpg, {texts[name][0]}, 0" for name in names))
    tasks.write_text_vectors(tmp_path, tmp_path / "text.npz")
    labelled = load_data(
        f"grocery:{tmp_path}", "all-test", continuous_labels=tmp_path / "text.npz", label_metric="cosine"
    )
    assert labelled.test.continuous is not None and list(labelled.test.ids) == ["Pear.jpg", "Apple.jpg", "Leek.jpg"]
    distances = labelled.test.continuous.distances(np.arange(3), np.arange(3))
    assert 0 < distances[0, 1] < 1 and 0 < distances[0, 2] < 1 and distances[1, 2] == pytest.approx(1)
    (root / "classes.csv").write_text("header\nPear,one\n")
    with pytest.raises(DataError, match=r"classes\.csv is malformed"):
        tasks.read_descriptions(tmp_path)


def test_on_real_drawings_the_same_character_is_nearer(tasks: Any, shared: Path) -> None:
    folder = shared / "data" / "omniglot"
    data = load_data(f"folder:{folder}", tasks.SPLIT, validation=0)
    assert data.train.labels is not None
    rows = np.flatnonzero(data.train.labels < data.train.labels.min() + 10)
    drawings = tasks.read_strokes(folder, [data.train.ids[row] for row in rows])
    distances = tasks.chamfer_distances(np.stack([tasks.normalised(tasks.resampled(drawing)) for drawing in drawings]))
    same = data.train.labels[rows][:, None] == data.train.labels[rows][None, :]
    np.fill_diagonal(same, False)
    others = ~same & ~np.eye(len(rows), dtype=bool)
    assert distances[same].mean() < 0.7 * distances[others].mean()
    np.fill_diagonal(distances, np.inf)
    assert same[np.arange(len(rows)), distances.argmin(axis=1)].mean() > 0.7


def test_on_real_descriptions_kindred_products_are_nearer(tasks: Any, shared: Path) -> None:
    archive = shared / "data" / "grocery-store-160px.zip"
    names = list(load_data(f"grocery:{archive}", "all-test", validation=0).test.class_names)
    vectors = tasks.tf_idf(tasks.read_descriptions(archive))
    assert len(vectors) == len(names) == 81
    similarity = vectors @ vectors.T - 2 * np.eye(81)
    for name, kindred in (("Orange-Bell-Pepper", "Bell-Pepper"), ("Alpro-Vanilla-Soyghurt", "Soyghurt")):
        assert kindred in names[similarity[names.index(name)].argmax()]
