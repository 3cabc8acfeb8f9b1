"""Check that an ONNX file, or an application of your own, gives the vectors of this parity pack.

    python check.py ../pixels/model.onnx

Needs onnxruntime, numpy and Pillow. In Python, pass your own function to ``check``: it takes a uint8 array (H, W, 3) in
RGB and returns the embedding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

PACK = Path(__file__).resolve().parent


def check(
    embed: Callable[[np.ndarray], np.ndarray], precision: str = "fp32", pack: Path = PACK
) -> list[tuple[str, float, float]]:
    """Embed all images, as decoded pixels and as files.

    Args:
        embed: takes uint8 (H, W, 3), returns the embedding.
        precision: precision of the expected vectors: fp32, fp16 or int8.
        pack: the folder of the pack.

    Returns:
        For each image its name, the distance from the expected vector in the pack's unit, and the largest distance
        that passes.

    Raises:
        ValueError: the pack is damaged, or has no vectors of this precision.
    """
    unit, cases = _cases(precision, pack)
    results = []
    for name, pixels, vector, most in cases:
        found = np.asarray(embed(pixels), dtype=np.float32).reshape(-1)
        distance = float("inf")
        if found.shape == vector.shape:
            distance = float(np.linalg.norm(found - vector) / unit)
        results.append((name, distance, most))
    return results


def _cases(precision: str, pack: Path) -> tuple[float, list[tuple[str, np.ndarray, np.ndarray, float]]]:
    """Return the unit of distances, and each image's name, pixels, expected vector and largest distance."""
    try:
        manifest = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
        about = manifest["precisions"][precision]
        expected = np.fromfile(pack / about["expected"], dtype="<f4").reshape(-1, manifest["dim"])
        limits = {exact: float(about["tolerance" if exact else "tolerance_decoded"]) for exact in (True, False)}
        cases = []
        for image, vector in zip(manifest["images"], expected, strict=True):
            stored = np.fromfile(pack / image["pixels"], dtype=np.uint8)
            stored = stored.reshape(image["height"], image["width"], 3)
            decoded = np.asarray(Image.open(pack / image["file"]).convert("RGB"))
            cases.append((str(image["pixels"]), stored, vector, limits[True]))
            cases.append((str(image["file"]), decoded, vector, limits[bool(image["exact"])]))
        if not cases:
            raise ValueError("it has no images")
        return float(about["unit"]), cases
    except (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{pack} is damaged, or no parity pack of {precision} ({type(error).__name__}: {str(error)[:200]}). Export "
            "it again."
        ) from error


def main() -> int:
    """Check the file named on the command line; return 0 if all images pass, 1 if not, 2 if the pack is damaged."""
    import onnxruntime

    parser = argparse.ArgumentParser(description="Check an ONNX file against this parity pack.")
    parser.add_argument("model", help="an ONNX file that takes pixels")
    parser.add_argument("--providers", nargs="+", default=["CPUExecutionProvider"], help="of onnxruntime, best first")
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(given.model, providers=given.providers)
    precision = session.get_modelmeta().custom_metadata_map.get("precision", "fp32")
    try:
        results = check(lambda pixels: session.run(["embedding"], {"image": pixels[None]})[0], precision)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, distance, limit in results:
        print(f"{'ok' if distance <= limit else 'FAILED':6} {name:14} distance {distance:.2e} (at most {limit:.1e})")
    return 0 if all(distance <= limit for _, distance, limit in results) else 1


if __name__ == "__main__":
    sys.exit(main())
