"""Open a hub folder in each library, and embed preprocessed tensors, or files that the library preprocesses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
NODE_MODULES = os.environ.get("NODE_MODULES", "")
"""Folder in which npm installed @huggingface/transformers; empty for none."""
BATCH = 32

Rows = np.ndarray
Tool = Callable[[Path, Sequence[Path]], Rows]


def rgb(file: Path) -> Image.Image:
    """Return an image in the form passed to the libraries."""
    return Image.open(file).convert("RGB")


@torch.inference_mode()
def timm_tensors(folder: Path, tensors: Rows) -> Rows:
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(torch.from_numpy(tensors)).numpy()


def timm_files(folder: Path, files: Sequence[Path]) -> Rows:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    return timm_tensors(folder, torch.stack([prepare(rgb(file)) for file in files]).numpy())


@torch.inference_mode()
def transformers_tensors(folder: Path, tensors: Rows) -> Rows:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return model(pixel_values=torch.from_numpy(tensors)).logits.numpy()


def transformers_files(folder: Path, files: Sequence[Path]) -> Rows:
    """Preprocess by config.json, as the card says, whether the folder is on disk or on a hub."""
    return _transformers_files(folder, files, "config.json")


def transformers_files_unasked(folder: Path, files: Sequence[Path]) -> Rows:
    """Preprocess by preprocessor_config.json, the default of transformers for a folder on a hub."""
    return _transformers_files(folder, files, "preprocessor_config.json")


def _transformers_files(folder: Path, files: Sequence[Path], prepared_by: str) -> Rows:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, image_processor_filename=prepared_by)
    prepared = processor([rgb(file) for file in files], return_tensors="pt")["pixel_values"]
    return transformers_tensors(folder, prepared.numpy())


@torch.inference_mode()
def sentence_transformers_tensors(folder: Path, tensors: Rows) -> Rows:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model({"pixel_values": torch.from_numpy(tensors), "modality": "image"})["sentence_embedding"].numpy()


def sentence_transformers_files(folder: Path, files: Sequence[Path]) -> Rows:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode([rgb(file) for file in files]))


def fastembed_tensors(folder: Path, tensors: Rows) -> Rows:
    model = _fastembed(folder).model.model
    return np.asarray(model.run(None, {model.get_inputs()[0].name: tensors})[0])


def fastembed_files(folder: Path, files: Sequence[Path], model_file: str = "onnx/model.onnx") -> Rows:
    return np.stack(list(_fastembed(folder, model_file).embed([str(file) for file in files], batch_size=BATCH)))


def _fastembed(folder: Path, model_file: str = "onnx/model.onnx") -> Any:
    from fastembed import ImageEmbedding
    from fastembed.common.model_description import DenseModelDescription, ModelSource
    from fastembed.image.onnx_embedding import supported_onnx_models

    name = f"own/{folder.name}-{Path(model_file).stem}"
    about: dict[str, Any] = {"model": name, "sources": ModelSource(hf=name), "model_file": model_file}
    supported_onnx_models.append(DenseModelDescription(**about, dim=1, description="", license="", size_in_GB=0.01))
    return ImageEmbedding(name, specific_model_path=str(folder))


def onnxruntime_files(folder: Path, files: Sequence[Path]) -> Rows:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "pixels" / "model.onnx"))
    return np.concatenate([session.run(None, {"image": np.asarray(rgb(file))[None]})[0] for file in files])


def transformers_js(
    folder: Path, files: Sequence[Path], tensors: Rows | None = None, dtype: str = "fp32"
) -> dict[str, Rows]:
    """Return embeddings by transformers.js: of "tensors" if any, of files by its "pipeline", and by the "pixels" file.

    Raises:
        RuntimeError: Node failed; the message has its output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        job: dict[str, Any] = {"folder": str(folder), "files": [str(file) for file in files], "dtype": dtype}
        job["out"] = str(place / "out.json")
        if tensors is not None:
            tensors.astype("<f4").tofile(place / "tensors.f32")
            job |= {"tensors": str(place / "tensors.f32"), "height": tensors.shape[2], "width": tensors.shape[3]}
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = ["node", str(HERE / "tools.mjs"), str(place / "job.json")]
        result = subprocess.run(command, cwd=NODE_MODULES, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"node failed: {result.stderr[-2000:]}")
        rows = json.loads((place / "out.json").read_text(encoding="utf-8"))
    return {name: np.array(values, dtype=np.float32) for name, values in rows.items()}


def has_node() -> bool:
    """Return whether transformers.js can run here."""
    return bool(NODE_MODULES) and shutil.which("node") is not None


def of_tensors(metric: str) -> dict[str, Callable[[Path, Rows], Rows]]:
    """Return the functions that embed preprocessed tensors, by name of the Python library."""
    tools = {
        "timm": timm_tensors,
        "transformers": transformers_tensors,
        "sentence-transformers": sentence_transformers_tensors,
    }
    return tools | ({"fastembed": fastembed_tensors} if metric == "cosine" else {})


def of_files(metric: str) -> dict[str, Tool]:
    """Return the functions that preprocess and embed files, by name of the Python library."""
    tools: dict[str, Tool] = {
        "timm": timm_files,
        "transformers": transformers_files,
        "transformers, preprocessor_config.json": transformers_files_unasked,
        "sentence-transformers": sentence_transformers_files,
        "onnxruntime, pixels": onnxruntime_files,
    }
    return tools | ({"fastembed": fastembed_files} if metric == "cosine" else {})


def quiet() -> None:
    """Silence the libraries' warnings about weights of the head that they do not use."""
    for name in ("transformers", "sentence_transformers", "fastembed"):
        logging.getLogger(name).setLevel(logging.ERROR)
