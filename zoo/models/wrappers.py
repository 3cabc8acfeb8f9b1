"""Find networks inside other modules: wrappers of training tools, and user modules around a timm model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Classes that pass input and output of one network through unchanged, and the attribute that holds the network. By
# name, because some are from libraries that may not be installed.
_HANDED_ON = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "ema",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "_FabricModule": "module",
}


@dataclass(frozen=True)
class Inside:
    """A timm network inside a foreign module.

    Attributes:
        network: the network, which gets exactly the module's input.
        same_directions: whether the module returns the network's output, possibly L2-normalised.
    """

    network: nn.Module
    same_directions: bool


def network_in(module: nn.Module) -> nn.Module:
    """Return the network in a pass-through wrapper, or the module itself if it is not a wrapper.

    Wrappers are ``nn.DataParallel`` and similar classes, averages of weights (torch's AveragedModel, timm's ModelEma),
    the result of ``torch.compile``, and ``nn.Sequential`` of one module.
    """
    while True:
        names = [name for kind in type(module).__mro__ if (name := _HANDED_ON.get(kind.__name__)) is not None]
        children = [child for child in module.children() if not isinstance(child, nn.Identity)]
        inner = getattr(module, names[0], None) if names else None
        if type(module) is nn.Sequential and len(children) == 1:
            inner = children[0]
        if not isinstance(inner, nn.Module):
            return module
        module = inner


@torch.no_grad()
def timm_network_in(module: nn.Module) -> Inside | None:
    """Return the timm network that gets a foreign module's input unchanged, found by running the module on an image.

    Args:
        module: the module, in eval mode.

    Returns:
        The network; None if there is none, if it gets something else, such as an image that was normalised once more,
        or if several networks with different preprocessing get the input.
    """
    inside = [part for part in module.modules() if part is not module and _config_of(part) is not None]
    inside = [
        part for part in inside if not any(part is not other and part in set(other.modules()) for other in inside)
    ]
    if not inside:
        return None
    weight = next((weight for weight in inside[0].parameters() if weight.is_floating_point()), None)
    size = (_config_of(inside[0]) or {}).get("input_size", (3, 224, 224))
    shown = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    shown = shown if weight is None else shown.to(weight.device, weight.dtype)
    given: dict[nn.Module, tuple[Any, Any]] = {}

    def keep(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given.setdefault(part, (inputs[0] if inputs else None, output))

    hooks = [part.register_forward_hook(keep) for part in inside]
    try:
        output = module(shown)
    except Exception:  # foreign modules may raise anything; their use will report it
        return None
    finally:
        for hook in hooks:
            hook.remove()
    reached = [part for part in given if isinstance(given[part][0], Tensor) and torch.equal(given[part][0], shown)]
    if not reached or len({str(_contract(part)) for part in reached}) > 1:
        return None
    return Inside(reached[0], _same_directions(given[reached[0]][1], output))


def _config_of(module: nn.Module) -> dict[str, Any] | None:
    config = getattr(module, "pretrained_cfg", None)
    return config if isinstance(config, dict) else None


def _contract(module: nn.Module) -> list[Any]:
    config = _config_of(module) or {}
    return [config.get(key) for key in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")]


def _same_directions(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.ndim >= 2):
        return False
    first, second = (functional.normalize(found.flatten(1).float()) for found in (one, other))
    return torch.allclose(first, second, atol=1e-5)
