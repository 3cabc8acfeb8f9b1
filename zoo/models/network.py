"""Properties of a timm network: its preprocessing, head, feature maps and size."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ModelError, OptionError, first_line
from zoo.formats.preprocessing import with_supported_modes
from zoo.models.facts import ModelFacts, set_facts
from zoo.models.preprocessing import Preprocessing
from zoo.models.wrappers import network_in

log = logging.getLogger(__name__)


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return the preprocessing contract of a timm model, also in a wrapper; for others ImageNet's at 224 pixels."""
    config = getattr(network_in(model), "pretrained_cfg", None)
    return Preprocessing.of(config) if isinstance(config, dict) else Preprocessing()


def use_supported_modes(model: nn.Module) -> None:
    """Replace unsupported preprocessing modes of a network that will be trained, with a warning."""
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict):
        model.pretrained_cfg, said = with_supported_modes(config)  # type: ignore[assignment]
        for sentence in said:
            log.warning("%s: %s", config.get("architecture", type(model).__name__), sentence)


def as_student(module: nn.Module, dim: int, image_size: int | None, crop_pct: float | None, metric: str) -> nn.Module:
    """Prepare a user's own module for training: attach preprocessing and metric, and check its output.

    Args:
        module: takes float32 ``(N, 3, H, W)``, returns ``(N, dim)``.
        dim: the dimensions that it must return.
        image_size: side of its input, pixels; None for the size in its ``pretrained_cfg``, else 224.
        crop_pct: as in :class:`Preprocessing`; None for the value in its ``pretrained_cfg``, else the default.
        metric: how its embeddings are compared.

    Raises:
        OptionError: it returns another number of dimensions.
        ModelError: it fails, or returns something else.
    """
    use_supported_modes(module)
    preprocessing = preprocessing_of(module)
    if image_size is not None:
        preprocessing = replace(preprocessing, input_size=(image_size, image_size))
    if crop_pct is not None:
        preprocessing = replace(preprocessing, crop_pct=crop_pct)
    name = summary_of(module)["architecture"]
    module.pretrained_cfg = preprocessing.as_pretrained_cfg() | {"architecture": name}  # type: ignore[assignment]
    was_training = module.training
    with torch.no_grad():
        try:
            weight = next(module.parameters(), torch.zeros(()))
            found = module.eval()(torch.zeros(2, 3, *preprocessing.input_size, device=weight.device))
        except Exception as error:  # foreign modules may raise anything
            raise ModelError(
                f"{name} fails on images of {preprocessing.input_size} pixels ({first_line(error)}). Set image_size, "
                "or wrap it in a module that takes (N, 3, H, W)."
            ) from error
        finally:
            module.train(was_training)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ModelError(f"{name} must return a tensor (N, D). Wrap it in a module that does.")
    if found.shape[1] != dim:
        raise OptionError(f"{name} returns {found.shape[1]} dimensions, and dim is {dim}. Set dim to {found.shape[1]}.")
    module.num_classes = dim  # type: ignore[assignment]
    set_facts(module, ModelFacts(metric=metric))
    return module


def head_of(model: nn.Module) -> nn.Module:
    """Return the head, from pooled features to embedding: a linear layer, in some architectures with a norm.

    Raises:
        OptionError: the model is not a timm network.
    """
    if not hasattr(model, "get_classifier"):
        raise OptionError(
            f"{summary_of(model)['architecture']} is a module of your own, whose head is unknown: options that treat "
            "the backbone in another way (freeze, warmup_epochs, towards_start) need a network of timm's."
        )
    head = model.get_classifier()  # type: ignore[operator]
    return nn.ModuleList(head) if isinstance(head, tuple) else head  # distilled transformers have two


def linear_head_of(model: nn.Module) -> nn.Linear | nn.Conv2d | None:
    """Return the head if it is a single linear layer or a 1x1 convolution of pooled maps, else None."""
    if not hasattr(model, "get_classifier"):
        return None
    head = head_of(model)
    is_linear = isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1))
    return head if is_linear else None  # type: ignore[return-value]


def embed_with_maps(model: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a timm model once, and return its embeddings and intermediate feature maps.

    Args:
        model: a timm model with ``forward_intermediates``; nearly all architectures have it.
        pixels: the model's input, ``(N, 3, H, W)``.

    Returns:
        The embeddings ``(N, D)`` of ``model(pixels)``, and maps ``(N, C, H', W')`` from first to last, one per stage,
        or one per block of a plain transformer, whose tokens are laid out as a map.

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
    """Return architecture, dimensions, number of parameters and input size, for cards and metadata."""
    model = network_in(model)
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
