"""The runtime on an edge device, without torch, timm and the other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from export import Embedder, to_onnx
from export.onnx.tracing import smooth_images
from zoo.models.making import create_model

SCRIPT = """
import sys

ALLOWED = {"numpy", "onnxruntime", "PIL", "zoo", "export", "flatbuffers", "google", "packaging", "sympy", "coloredlogs"}

class OnlyTheRuntime:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ALLOWED or top.startswith("_"):
            return None
        raise ModuleNotFoundError(f"{name} is not on this device")

sys.meta_path.insert(0, OnlyTheRuntime())
import numpy as np
from export.runtime import Embedder

try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch could be imported: the test proves nothing")
np.save(sys.argv[2], Embedder(sys.argv[1])(sys.argv[3]))
"""


def test_embedder_without_torch(tmp_path: Path) -> None:
    from PIL import Image

    file = to_onnx(create_model("test_resnet", 8, image_size=32), tmp_path / "model.onnx")
    picture = tmp_path / "picture.png"
    Image.fromarray(smooth_images(1)[0]).save(picture)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SCRIPT, str(file), str(tmp_path / "embedding.npy"), str(picture)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "embedding.npy"), Embedder(file)(picture))
