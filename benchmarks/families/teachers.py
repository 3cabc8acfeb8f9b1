"""Small teachers of every family, made from a configuration and saved the way each library saves its models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.data import load_images
from zoo.models.embedding import embed
from zoo.models.folder import save_model
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Preprocess

SIDE = 48
_BLOCKS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_NETWORK = """from torch import nn

network = nn.Sequential(
    nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=4), nn.ReLU(),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(),
)
"""


def zoo_network(photos: Path) -> nn.Module:
    """Return a network with random weights and the BatchNorm statistics of some photographs."""
    model = create_model("test_resnet", 32, image_size=64)
    images, prepare = load_images(photos), Preprocess(preprocessing_of(model))
    shown = [images.pixels(index) for index in range(0, len(images), max(1, len(images) // 64))]
    pixels = torch.cat([prepare(torch.from_numpy(image)[None]) for image in shown])
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(pixels)
    return model.eval()


def make_own(folder: Path, photos: Path) -> None:
    """Save a model folder of this project."""
    save_model(zoo_network(photos), folder / "teacher")


def make_timm(folder: Path, photos: Path) -> None:
    """Save a folder as timm does."""
    import timm

    timm.models.save_for_hf(zoo_network(photos), folder / "teacher", safe_serialization=True)


def make_transformers(folder: Path, photos: Path) -> None:
    """Save a DINOv2 as transformers does."""
    import transformers

    config = transformers.Dinov2Config(**_BLOCKS, image_size=SIDE, patch_size=12, layerscale_value=1.0)
    transformers.Dinov2Model(config).save_pretrained(folder / "teacher")
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    transformers.BitImageProcessor(**size).save_pretrained(folder / "teacher")


def make_open_clip(folder: Path, photos: Path) -> None:
    """Save a CLIP as open_clip does."""
    import open_clip

    vision = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.model.CLIP(24, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}}
    config["preprocess_cfg"] = {"size": SIDE, "mode": "RGB", "mean": [0.48] * 3, "std": [0.27] * 3}
    (folder / "teacher").mkdir()
    (folder / "teacher" / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "teacher" / "open_clip_model.safetensors")


def make_sentence_transformers(folder: Path, photos: Path) -> None:
    """Save a CLIP as sentence-transformers does."""
    import sentence_transformers
    import transformers

    text = _BLOCKS | {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = _BLOCKS | {"image_size": SIDE, "patch_size": 16}
    clip = folder / "clip"
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    transformers.CLIPModel(config).save_pretrained(clip)
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(clip)
    modules = sentence_transformers.sentence_transformer.modules
    parts = [modules.Transformer(str(clip)), modules.Normalize()]
    sentence_transformers.SentenceTransformer(modules=parts, device="cpu").save(str(folder / "teacher"))


def make_onnx(folder: Path, photos: Path) -> None:
    """Export a network as another team might: normalised floats in, vectors out, no metadata on preprocessing."""
    shape = (torch.zeros(2, 3, 64, 64),)
    options: dict[str, Any] = {"input_names": ["pixel_values"], "output_names": ["embedding"], "verbose": False}
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.onnx.export(zoo_network(photos), shape, folder / "teacher.onnx", dynamic_shapes=batch, **options)


def make_vectors(folder: Path, photos: Path) -> None:
    """Save embeddings by image id."""
    images = load_images(photos)
    vectors = embed(zoo_network(photos), images, progress=False)
    np.savez(folder / "teacher.npz", ids=np.array(images.ids), embeddings=vectors)


def make_module(folder: Path, photos: Path) -> None:
    """Write a user's own network as Python code."""
    (folder / "network.py").write_text(_NETWORK)


def make_nothing(folder: Path, photos: Path) -> None:
    """Make nothing: the script makes its teacher itself."""


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "timm": make_timm,
    "transformers": make_transformers,
    "open_clip": make_open_clip,
    "sentence-transformers": make_sentence_transformers,
    "torchvision": make_nothing,
    "model folder": make_own,
    "ONNX of another make": make_onnx,
    "stored vectors": make_vectors,
    "torch module": make_module,
}
"""Functions that make the teacher of each family in a folder, given the photographs."""
