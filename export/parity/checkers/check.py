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
        precision: whose vectors are expected: fp32, fp16 or int8.
        pack: the folder of the pack.

    Returns:
        For each image its name, the distance from the expected vector in the pack's unit, and the largest that passes.
    """
    manifest = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    about = manifest["precisions"][precision]
    expected = np.fromfile(pack / about["expected"], dtype="<f4").reshape(-1, manifest["dim"])
    results = []
    for image, vector in zip(manifest["images"], expected, strict=True):
        shape = (image["height"], image["width"], 3)
        stored = np.fromfile(pack / image["pixels"], dtype=np.uint8).reshape(shape)
        decoded = np.asarray(Image.open(pack / image["file"]).convert("RGB"))
        limit = about["tolerance"]
        of_file = limit if image["exact"] else about["tolerance_decoded"]
        for name, pixels, most in ((image["pixels"], stored, limit), (image["file"], decoded, of_file)):
            found = np.asarray(embed(pixels), dtype=np.float32).reshape(-1)
            distance = float("inf")
            if found.shape == vector.shape:
                distance = float(np.linalg.norm(found - vector) / about["unit"])
            results.append((name, distance, most))
    return results


def main() -> int:
    """Check the file named on the command line; return 0 if all images pass, 1 otherwise."""
    import onnxruntime

    parser = argparse.ArgumentParser(description="Check an ONNX file against this parity pack.")
    parser.add_argument("model", help="an ONNX file that takes pixels")
    parser.add_argument("--providers", nargs="+", default=["CPUExecutionProvider"], help="of onnxruntime, best first")
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(given.model, providers=given.providers)
    precision = session.get_modelmeta().custom_metadata_map.get("precision", "fp32")
    results = check(lambda pixels: session.run(["embedding"], {"image": pixels[None]})[0], precision)
    for name, distance, limit in results:
        print(f"{'ok' if distance <= limit else 'FAILED':6} {name:14} distance {distance:.2e} (at most {limit:.1e})")
    return 0 if all(distance <= limit for _, distance, limit in results) else 1


if __name__ == "__main__":
    sys.exit(main())
