"""Code that opens the folder in each library: the card shows it, and the ecosystem's tests run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PLACE = "PATH"
"""Placeholder for the folder in the code."""


def recipes(dim: int, metric: str, size: tuple[int, int], files: Mapping[str, Path], parity: bool) -> str:
    """Return Markdown that shows how to compute the embedding in each library.

    Args:
        dim: dimensions of the embedding.
        metric: "cosine" or "euclidean".
        size: height and width of the network's input, pixels.
        files: the files that take pixels, by precision.
        parity: whether the folder has a parity pack.
    """
    cosine = metric == "cosine"
    unit = "\nembedding = torch.nn.functional.normalize(embedding)" if cosine else ""
    parts = [
        f"`{PLACE}` is this folder on disk. With its name on a hub in place of the path, transformers, "
        "sentence-transformers and transformers.js download it; timm takes `hf-hub:NAME`. No code of this repository "
        "is run (`trust_remote_code` is not needed), and nothing is a pickle.",
        "**onnxruntime**, from pixels: `image` is uint8 `(N, H, W, 3)`, RGB, of any size.",
        _python(
            f'''import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{PLACE}/pixels/model.onnx")
image = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"))
embedding = session.run(["embedding"], {{"image": image[None]}})[0]  # float32 (1, {dim})'''
        ),
        "**timm**",
        _python(
            f"""import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{PLACE}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    embedding = model(prepare(Image.open("photo.jpg").convert("RGB"))[None]){_indented(unit)}"""
        ),
        "**transformers**: `logits` of the class for image classification are the embedding"
        f"{', before normalisation' if cosine else ''}. `AutoModel` leaves out the last layer: its `pooler_output` has "
        "another size and is not the embedding. `config.json` has timm's preprocessing, which is this model's.",
        _python(
            f'''import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{PLACE}", image_processor_filename="config.json")
model = AutoModelForImageClassification.from_pretrained("{PLACE}").eval()
inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")
with torch.inference_mode():
    embedding = model(**inputs).logits{_indented(unit)}'''
        ),
        "**sentence-transformers**",
        _python(
            f'''from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{PLACE}")
embedding = model.encode([Image.open("photo.jpg").convert("RGB")])'''
        ),
        *_fastembed(dim, cosine),
        "**transformers.js**, from pixels, which gives the same vector as onnxruntime:",
        _javascript(
            f"""import {{ AutoModel, RawImage, Tensor }} from "@huggingface/transformers";

const file = {{ subfolder: "pixels", model_file_name: "model", dtype: "fp32" }};
const model = await AutoModel.from_pretrained("{PLACE}", file);
const image = (await RawImage.read("photo.jpg")).rgb();
const pixels = new Tensor("uint8", image.data, [1, image.height, image.width, 3]);
const {{ embedding }} = await model({{ image: pixels }});"""
        ),
        f"Its pipeline takes the files in `onnx/` ({size[0]} x {size[1]} pixels in), and prepares images itself; see "
        f"below. `dtype` is {_dtypes(files)}.",
        _javascript(
            f"""import {{ pipeline }} from "@huggingface/transformers";

const extract = await pipeline("image-feature-extraction", "{PLACE}", {{ dtype: "fp32" }});
const embedding = await extract("photo.jpg"); // dims [1, {dim}]"""
        ),
    ]
    if parity:
        parts.append(
            "`parity/` shows whether an application computes what this model computes: "
            "`python parity/check.py pixels/model.onnx`."
        )
    return "\n\n".join(parts)


def _fastembed(dim: int, cosine: bool) -> list[str]:
    if not cosine:
        return [
            "**fastembed** normalises every embedding, and this model's lengths count (Euclidean distance): it cannot "
            "be used there."
        ]
    return [
        "**fastembed**, to which the model must be described:",
        _python(
            f'''from fastembed import ImageEmbedding
from fastembed.common.model_description import DenseModelDescription, ModelSource
from fastembed.image.onnx_embedding import supported_onnx_models

about = {{"model": "own/model", "sources": ModelSource(hf="own/model"), "model_file": "onnx/model.onnx"}}
about |= {{"dim": {dim}, "description": "", "license": "", "size_in_GB": 0.01}}
supported_onnx_models.append(DenseModelDescription(**about))
model = ImageEmbedding("own/model", specific_model_path="{PLACE}")
embedding = list(model.embed(["photo.jpg"]))'''
        ),
    ]


def _dtypes(files: Mapping[str, Path]) -> str:
    names = {"fp32": '"fp32"', "fp16": '"fp16"', "int8": '"q8" (int8, its default in browsers)'}
    found = [name for precision, name in names.items() if precision in files]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _indented(line: str) -> str:
    return line.replace("\n", "\n    ")


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _javascript(code: str) -> str:
    return f"```javascript\n{code}\n```"
