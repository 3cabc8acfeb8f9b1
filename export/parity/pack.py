"""The parity pack: :func:`write_parity`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from export.onnx.graph import read_onnx
from export.onnx.tensor_file import INPUT, write_tensor_file
from export.parity.images import ParityImage, parity_images
from export.staging import is_taken, staged
from zoo.errors import ModelError, OptionError, all_shown
from zoo.files import require_writable, write_json, write_text
from zoo.formats.documents import has_keys
from zoo.formats.onnx_content import digest_of
from zoo.formats.onnx_metadata import OnnxMetadata, read_metadata
from zoo.formats.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from zoo.models.preprocessing import Preprocess
from zoo.sessions import cpu_session

SCHEMA = 1
MANIFEST = "manifest.json"
CHECKERS = ("check.py", "check.mjs", "self_test.js", "check.cpp")
_LEAST = {"fp32": 1e-3, "fp16": 5e-3, "int8": 0.02}
_MARGIN = 2.0  # factor on the change observed between two ways of computing


@dataclass(frozen=True, eq=False)
class _Expected:
    """A file's vectors for the images of the pack, and how far another runtime's may be from them.

    Attributes:
        vectors: float32 ``(5, dim)``.
        unit: unit of distances: root mean square distance of the vectors from their mean.
        tolerance: largest distance that passes, in these units.
        tolerance_decoded: the same for images that decoders disagree on.
        noticed: largest distance that each change of preprocessing causes, by a description of the change.
    """

    vectors: np.ndarray
    unit: float
    tolerance: float
    tolerance_decoded: float
    noticed: dict[str, float]


def write_parity(exported: Mapping[str, Path], folder: Path) -> None:
    """Write the pack: images, the expected vectors of each file, tolerances, and checkers.

    A vector passes if its distance from the expected one is within the tolerance of the precision. The unit of distance
    is the root mean square distance of the five expected vectors from their mean. The tolerance allows for other
    kernels: twice the change caused by onnxruntime's optimisations here, and at least 1e-3 (fp32), 5e-3 (fp16) or 0.02
    (int8). For JPEG files it allows for other decoders too. The pack is written only if it detects images resized
    without antialiasing or with another filter, normalised by another mean, or with red and blue swapped.

    Args:
        exported: files made by export that take pixels, by precision.
        folder: the folder of the pack: new, empty, or with an earlier pack, which is replaced.

    Raises:
        ModelError: the pack would not detect a difference in preprocessing.
        OptionError: the folder holds something else.
    """
    require_pack_place(folder)
    shown = parity_images()
    expected = {precision: _expected(precision, file, shown) for precision, file in exported.items()}
    left = [file.name for file in folder.glob("expected-*.f32")]  # of precisions that are no longer there
    with staged(folder, MANIFEST, left) as stage:
        for image in shown:
            (stage / image.file).write_bytes(image.content)
            (stage / f"{image.name}.rgb").write_bytes(image.pixels.tobytes())
        for precision, each in expected.items():
            (stage / f"expected-{precision}.f32").write_bytes(each.vectors.astype("<f4").tobytes())
        write_json(stage / MANIFEST, _manifest(exported, shown, expected))
        write_text(stage / "cases.txt", _cases(shown, expected))
        with as_file(files("export.parity") / "checkers") as checkers:
            for name in CHECKERS:
                shutil.copyfile(checkers / name, stage / name)


def require_pack_place(folder: Path) -> None:
    """Refuse a folder that holds anything other than an earlier pack, before any work is lost.

    Raises:
        OptionError: the folder holds other files, or cannot be written to.
    """
    require_writable(folder)
    if is_taken(folder) and not has_keys(folder / MANIFEST, "schema", "images", "precisions", "preprocessing"):
        others = all_shown(sorted(entry.name for entry in folder.iterdir()), 3)
        raise OptionError(f"{folder} is where the parity pack goes, and it holds other files ({others}). Move them.")


def _expected(precision: str, file: Path, shown: list[ParityImage]) -> _Expected:
    session = cpu_session(file, threads=None)
    pixels = [image.pixels for image in shown]
    vectors = _embedded(session, pixels)
    tolerance = max(_LEAST[precision], _MARGIN * _distances(_embedded(_plain_session(file), pixels), vectors).max())
    decoded = _distances(_embedded(session, _otherwise_decoded(shown)), vectors)
    of_decoded = max(distance for distance, image in zip(decoded, shown, strict=True) if not image.exact)
    noticed = _noticed(file, _metadata(file).preprocessing, shown, vectors)
    for change, distance in noticed.items():
        if not distance > tolerance:
            raise ModelError(
                f"{file.name}: images {change} change the embedding by {distance:.1e} at most, which is within the "
                f"tolerance of {precision}, {tolerance:.1e}: a parity pack would not notice. Leave parity out."
            )
    return _Expected(vectors, _spread(vectors), tolerance, tolerance + _MARGIN * of_decoded, noticed)


def _metadata(file: Path) -> OnnxMetadata:
    return read_metadata(file, {entry.key: entry.value for entry in read_onnx(file).metadata_props})


def _manifest(
    exported: Mapping[str, Path], shown: list[ParityImage], expected: Mapping[str, _Expected]
) -> dict[str, Any]:
    said = _metadata(next(iter(exported.values())))
    return {
        "schema": SCHEMA,
        "dim": said.dim,
        "metric": said.metric,
        "preprocessing": said.preprocessing.as_pretrained_cfg(),
        "images": [
            {
                "name": image.name,
                "height": image.pixels.shape[0],
                "width": image.pixels.shape[1],
                "pixels": f"{image.name}.rgb",
                "file": image.file,
                "exact": image.exact,
            }
            for image in shown
        ],
        "precisions": {
            precision: {
                "model": file.name,
                "digest": digest_of(file),
                "expected": f"expected-{precision}.f32",
                "unit": float(f"{expected[precision].unit:.6g}"),
                "tolerance": float(f"{expected[precision].tolerance:.3g}"),
                "tolerance_decoded": float(f"{expected[precision].tolerance_decoded:.3g}"),
                "noticed": {change: round(distance, 4) for change, distance in expected[precision].noticed.items()},
            }
            for precision, file in exported.items()
        },
    }


def _cases(shown: list[ParityImage], expected: Mapping[str, _Expected]) -> str:
    """Return the content of the manifest as lines of words, for languages without a JSON reader."""
    lines = [f"dim {next(iter(expected.values())).vectors.shape[1]}"]
    lines += [f"image {image.name}.rgb {image.pixels.shape[0]} {image.pixels.shape[1]}" for image in shown]
    lines += [
        f"precision {precision} expected-{precision}.f32 {each.unit:.6g} {each.tolerance:.3g}"
        for precision, each in expected.items()
    ]
    return "\n".join(lines) + "\n"


def _embedded(session: onnxruntime.InferenceSession, images: list[np.ndarray]) -> np.ndarray:
    rows = [session.run(None, {"image": pixels[None]})[0] for pixels in images]
    return np.concatenate(rows).astype(np.float32)


def _plain_session(file: Path) -> onnxruntime.InferenceSession:
    """Open a file without onnxruntime's graph optimisations: int8 is computed in float, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _otherwise_decoded(shown: list[ParityImage]) -> list[np.ndarray]:
    """Return the images as another decoder might give them: values changed at random by -1, 0 or 1."""
    random = np.random.default_rng(0)
    changed = [image.pixels + random.integers(-1, 2, image.pixels.shape) for image in shown]
    return [np.clip(pixels, 0, 255).astype(np.uint8) for pixels in changed]


def _noticed(file: Path, right: Preprocessing, shown: list[ParityImage], expected: np.ndarray) -> dict[str, float]:
    """Return the largest distance that each change of preprocessing causes, by a description of the change."""
    other_filter = "bilinear" if right.interpolation == "bicubic" else "bicubic"
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if abs(right.mean[0] - IMAGENET_MEAN[0]) > 1e-3 else ((0.5,) * 3,) * 2
    changes: dict[str, tuple[Preprocessing, bool, bool]] = {
        "resized without antialiasing": (right, False, False),
        f"resized with the {other_filter} filter": (replace(right, interpolation=other_filter), True, False),
        "normalised by another mean": (replace(right, mean=mean, std=std), True, False),
        "with red and blue exchanged": (right, True, True),
    }
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        write_tensor_file(file, Path(temporary) / "network.onnx")
        network = cpu_session(Path(temporary) / "network.onnx", threads=None)
        for change, (preprocessing, antialiased, exchanged) in changes.items():
            preprocess = Preprocess(preprocessing, antialias=antialiased)
            vectors = []
            for image in shown:
                pixels = (image.pixels[..., ::-1] if exchanged else image.pixels).copy()
                tensor = preprocess(torch.from_numpy(pixels)[None]).numpy()
                vectors.append(network.run(None, {INPUT: tensor})[0])
            found[change] = float(_distances(np.concatenate(vectors), expected).max())
    return found


def _distances(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the distance of each row from the expected one, in units of the spread of the expected rows."""
    distances: np.ndarray = np.linalg.norm(found - expected, axis=1) / _spread(expected)
    return distances


def _spread(vectors: np.ndarray) -> float:
    """Return the root mean square distance of vectors from their mean."""
    around = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return max(float(np.sqrt((around**2).sum(axis=1).mean())), 1e-12)
