"""Zoo models are timm models: made, saved and loaded in timm's own formats.

What timm has no field for (metric, loss, data, seed, measured recall) travels in :class:`ModelFacts`, under one key of
the folder's ``config.json``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.errors import ModelError, OptionError, did_you_mean, first_line, require_known
from zoo.files import write_text
from zoo.models.card import model_card
from zoo.models.preprocessing import Preprocessing

log = logging.getLogger(__name__)

FACTS_KEY = "embedding_compressor"
COSINE, EUCLIDEAN = "cosine", "euclidean"


@dataclass
class ModelFacts:
    """What is known about an embedding model beyond its weights.

    Attributes:
        metric: "cosine" (compare L2-normalised embeddings) or "euclidean" (compare them as they are).
        loss: name of the loss it was trained with, or None.
        options: the resolved options of the training or distillation.
        data: name and protocol of the training data; no class names.
        teacher: name and digest of the teacher, for a student.
        measured: retrieval measures, each named by where it was measured.
        versions: versions of the libraries it was made with.
    """

    metric: str = COSINE
    loss: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_known("metric", self.metric, (COSINE, EUCLIDEAN))


def create_model(
    arch: str,
    dim: int,
    pretrained: bool | str | Path = False,
    pool: str | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    metric: str = COSINE,
) -> nn.Module:
    """Make an embedding model: a timm backbone, pooling, and a linear head of ``dim`` outputs.

    The head is initialised orthogonally (as in "Embedding Transfer with Label Relaxation", CVPR 2021). The forward
    takes float32 ``(N, 3, H, W)``, normalised as :func:`preprocessing_of` says, and gives ``(N, dim)``, not normalised.

    Args:
        arch: a timm architecture, with or without a weight tag (``resnet18``, ``resnet18.a1_in1k``).
        dim: dimensions of the embedding.
        pretrained: True for timm's published weights, or the path of a local ``.safetensors`` file with the backbone's
            weights; a head of another size in it is left out. False for random weights.
        pool: ``avg``, ``max``, ``avgmax`` (the papers' average + max, halved) or whatever else timm knows; None for
            the architecture's own, which is also taken for avgmax where the architecture has none, with a warning.
        image_size: side of the square network input, pixels; None for the architecture's own.
        crop_pct: fraction of the resized image that the centre crop keeps; None for the architecture's own.
        metric: how the embeddings are to be compared, "cosine" or "euclidean".

    Raises:
        ModelError: unknown architecture, missing or unfit weights.
        OptionError: an option out of range.
    """
    if dim < 1:
        raise OptionError(f"dim is {dim}; an embedding needs at least 1 dimension.")
    _require_architecture(arch)
    overlay: dict[str, Any] = {}
    if crop_pct is not None:
        overlay["crop_pct"] = crop_pct
    options: dict[str, Any] = {"num_classes": dim}
    if pool is not None:
        options["global_pool"] = pool
    if image_size is not None:
        overlay["input_size"] = (3, image_size, image_size)
        overlay["pool_size"] = None
        overlay["test_input_size"] = None
        if timm.get_pretrained_cfg_value(arch, "fixed_input_size"):
            options["img_size"] = image_size
    if isinstance(pretrained, str | Path):
        overlay["file"] = str(_require_safetensors(Path(pretrained)))
        overlay["num_classes"] = _classes_in(Path(pretrained), timm.get_pretrained_cfg_value(arch, "classifier"))
    make = partial(timm.create_model, arch, pretrained=bool(pretrained), pretrained_cfg_overlay=overlay)
    try:
        model = make(**options)
    except Exception as error:  # timm, torch, safetensors and the hub raise many kinds for a weight that does not fit
        source = f"weights {pretrained}" if isinstance(pretrained, str | Path) else f"pretrained={pretrained}"
        asked = f"{arch} with {source}, pool={pool}, image_size={image_size}"
        if pool is None:
            raise ModelError(f"Cannot make {asked}: {first_line(error)}") from error
        try:
            model = make(**{name: value for name, value in options.items() if name != "global_pool"})
        except Exception:
            raise ModelError(f"Cannot make {asked}: {first_line(error)}") from error
        if pool != "avgmax":
            raise ModelError(f"{arch} has no pooling {pool!r} ({first_line(error)}) Set pool to null.") from error
        log.warning("%s has no avgmax pooling: its own is used", arch)
    if isinstance(pretrained, str | Path):
        _require_loaded(model, Path(pretrained))
    for layer in head_of(model).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    size = preprocessing_of(model).input_size  # raises if image_size or crop_pct cannot work
    if image_size is not None:
        _require_size(model, arch, size)
    set_facts(model, ModelFacts(metric=metric))
    return model


def load_model(path: str | Path) -> nn.Module:
    """Load a model folder in timm's format, in eval mode.

    Raises:
        ModelError: the folder or a file in it is missing or broken; names it.
    """
    path = Path(path)
    config_file, weights_file = path / "config.json", path / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ModelError(f"{file} does not exist; {path} is not a finished model folder. Check the path.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        facts = dict(config.get(FACTS_KEY, {}))
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config_file} is not a timm model configuration ({error}). Train or download it anew."
        ) from error
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(f"{weights_file} cannot be loaded ({reason}). Train or download it anew.") from error
    known = {f.name for f in fields(ModelFacts)}
    set_facts(model, ModelFacts(**{name: value for name, value in facts.items() if name in known}))
    return model.eval()


def save_model(model: nn.Module, path: str | Path) -> None:
    """Save a model as a folder in timm's format: model.safetensors, README.md, config.json.

    Each file appears whole or not at all, config.json last, so a folder that has one is finished.
    ``timm.create_model("local-dir:PATH", pretrained=True)`` loads it without this project.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving.") as temporary:
        on_cpu = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        on_cpu.register_state_dict_post_hook(_unshare)
        timm.models.save_for_hf(
            on_cpu, temporary, model_config={FACTS_KEY: asdict(facts_of(model))}, safe_serialization=True
        )
        os.replace(Path(temporary) / "model.safetensors", path / "model.safetensors")
        write_text(path / "README.md", model_card(path.name, summary_of(model), facts_of(model)))
        os.replace(Path(temporary) / "config.json", path / "config.json")


def facts_of(model: nn.Module) -> ModelFacts:
    """Return the facts of a model; of a foreign one, the defaults (cosine metric)."""
    facts = getattr(model, "embedding_facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()


def set_facts(model: nn.Module, facts: ModelFacts) -> None:
    """Attach facts to a model."""
    model.embedding_facts = facts  # type: ignore[assignment]


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return the preprocessing contract of a timm model; of a foreign one, ImageNet's at 224 pixels."""
    config = getattr(model, "pretrained_cfg", None)
    return Preprocessing.of(config) if isinstance(config, dict) else Preprocessing()


def head_of(model: nn.Module) -> nn.Module:
    """Return what makes the embedding of the pooled features: a linear layer, with a norm in some architectures."""
    head = model.get_classifier()  # type: ignore[operator]
    return nn.ModuleList(head) if isinstance(head, tuple) else head  # two of them in distilled transformers


def embed_with_maps(model: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a timm model once, for its embeddings and for the feature maps on the way to them.

    Args:
        model: of an architecture that has timm's ``forward_intermediates``; nearly all do.
        pixels: the model's input, ``(N, 3, H, W)``.

    Returns:
        The embeddings ``(N, D)`` of ``model(pixels)``, and maps ``(N, C, H', W')`` from first to last: of each stage,
        or of each block of a plain transformer, whose tokens are laid out as a map.

    Raises:
        OptionError: the network has no ``forward_intermediates``.
    """
    if not hasattr(model, "forward_intermediates"):
        name = summary_of(model)["architecture"]
        raise OptionError(
            f"{name} gives no feature maps (timm's forward_intermediates). Choose another network, or a loss of "
            "embeddings alone, such as relaxed_contrastive."
        )
    features, maps = model.forward_intermediates(pixels, output_fmt="NCHW")  # type: ignore[operator]
    return model.forward_head(features), maps  # type: ignore[operator]


def summary_of(model: nn.Module) -> dict[str, Any]:
    """Return architecture, dimensions, parameters and input size, for cards and metadata."""
    config = getattr(model, "pretrained_cfg", {})
    return {
        "architecture": config.get("architecture", type(model).__name__),
        "dim": getattr(model, "num_classes", None),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input_size": list(preprocessing_of(model).input_size),
    }


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """L2-normalise ``(N, D)``, in float32; zero stays zero. Written so that it exports to ONNX as plain operators."""
    embeddings = embeddings.float()
    # A clamp, not a sum: the exporter drops the addition of a number this small.
    return embeddings * torch.rsqrt((embeddings * embeddings).sum(dim=1, keepdim=True).clamp(min=1e-12))


def _require_architecture(arch: str) -> None:
    if timm.is_model(arch):
        return
    known = timm.list_models()
    raise ModelError(
        f"Unknown architecture {arch!r}.{did_you_mean(arch.partition('.')[0], known)} "
        f"timm.list_models() names all {len(known)}."
    )


def _require_size(model: nn.Module, arch: str, size: tuple[int, int]) -> None:
    """Show the model an image, since only running it tells whether its patches and strides fit."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, *size))
    except Exception as error:  # each architecture has its own
        reason = first_line(error)
        raise OptionError(
            f"{arch} cannot take images of {size[0]} pixels ({reason}). Choose another image_size."
        ) from error
    finally:
        model.train()


def _classes_in(path: Path, classifier: str | tuple[str, ...] | None) -> int:
    """Return how many outputs the head in a weight file has, so that timm leaves out one of another size; else 0."""
    name = classifier if isinstance(classifier, str) else (classifier or ("",))[0]
    try:
        with safe_open(path, framework="pt") as file:
            key = f"{name}.weight"
            return int(file.get_slice(key).get_shape()[0]) if key in file.keys() else 0  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Weight file {path} cannot be read ({error}). Save or download it anew.") from error


def _unshare(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Give tensors that modules share a copy each: safetensors refuses shared memory."""
    for name, tensor in state.items():
        state[name] = tensor.clone()


def _require_loaded(model: nn.Module, path: Path) -> None:
    """Refuse a weight file that most of a network's weights are not from: timm leaves out names it does not know."""
    head = {id(parameter) for parameter in head_of(model).parameters()}
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        held = {(tuple(tensor.shape), float(tensor.double().sum())) for tensor in map(file.get_tensor, names)}
    body = {name: weight.detach() for name, weight in model.named_parameters() if id(weight) not in head}
    body = {name: weight for name, weight in body.items() if weight.min() < weight.max()}  # ones are ones in any file
    found = [weight.numel() for weight in body.values() if (tuple(weight.shape), float(weight.double().sum())) in held]
    if sum(found) < sum(weight.numel() for weight in body.values()) / 2:
        raise ModelError(
            f"Weight file {path} does not fit {summary_of(model)['architecture']}: {len(found)} of its {len(body)} "
            f"tensors were found. The file names {names[0]}, the network {next(iter(body))}."
        )


def _require_safetensors(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"Weight file {path} does not exist. Check the path given as pretrained.")
    if path.suffix != ".safetensors":
        raise ModelError(
            f"Weight file {path} is not a .safetensors file, and pickles are not loaded. Convert it with "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')."
        )
    return path
