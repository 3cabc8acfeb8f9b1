"""Check that each library that opens the folder builds the same network from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from zoo.errors import ModelError, first_line
from zoo.formats.documents import read_document
from zoo.models.network import linear_head_of, preprocessing_of, summary_of

TOLERANCE = 1e-4  # of the largest element, where that is above 1


@torch.inference_mode()
def require_expressible(model: nn.Module, folder: Path) -> None:
    """Refuse a network that timm, transformers or sentence-transformers would build differently from its folder.

    timm builds it from the folder. transformers builds it from ``architecture`` and ``model_args``, with and without
    head. sentence-transformers applies the head to the pooled output of transformers.

    Args:
        model: the network, in eval mode on the CPU.
        folder: the folder it was saved to.

    Raises:
        ModelError: it is not a timm network, its head is not one linear layer, or an embedding differs.
    """
    name = summary_of(model)["architecture"]
    if not timm.is_model(name):
        raise ModelError(f"Layout hub needs a timm network, and {name} is not one. Use layout files.")
    head = linear_head_of(model)
    if head is None:
        raise ModelError(
            f"The head of {name} is not one linear layer, which sentence-transformers needs. Use layout files."
        )
    config = read_document(folder / "config.json")
    arguments: dict[str, Any] = config.get("model_args", {})
    weights = load_file(folder / "model.safetensors")
    shown = torch.rand(2, 3, *preprocessing_of(model).input_size, generator=torch.Generator().manual_seed(0))
    expected = model(shown)
    ways = {
        "timm": lambda: timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(shown),
        "transformers": lambda: _made(name, weights, config["num_classes"], arguments)(shown),
        "sentence-transformers": lambda: _headed(_made(name, weights, 0, arguments), head, shown),
    }
    for library, embed in ways.items():
        try:
            found = embed()
        except Exception as error:  # timm networks raise errors of any type
            raise _different(library, name, first_line(error)) from error
        limit = TOLERANCE * max(1.0, float(expected.abs().max()))
        if found.shape != expected.shape or not float((found - expected).abs().max()) <= limit:
            raise _different(library, name, "it gives other embeddings")


def _made(name: str, weights: dict[str, Tensor], classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Return the network as transformers builds it; weights without a matching parameter are ignored."""
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **arguments)
    missing = network.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise ValueError(f"the folder has no weights for {missing[0]}")
    return network.eval()


def _headed(body: nn.Module, head: nn.Linear | nn.Conv2d, shown: Tensor) -> Tensor:
    pooled: Tensor = body.forward_head(body.forward_features(shown))  # type: ignore[operator]
    return functional.linear(pooled, head.weight.flatten(1), head.bias)


def _different(library: str, name: str, reason: str) -> ModelError:
    return ModelError(
        f"{library} would not make {name} as it is here from its folder ({reason}). Use layout files, or another "
        "architecture or pooling."
    )
