"""Find the tensors of a network to round by following one image through it."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.errors import ModelError
from zoo.models.int8_speed import FEWEST_TERMS
from zoo.models.network import preprocessing_of, summary_of

T = TypeVar("T", bound=nn.Module)
_TensorKey = tuple[int, int]


def require_unbranched(model: nn.Module) -> None:
    """Raise a ModelError if a network merges its branches when it is exported."""
    for module in model.modules():
        if any(hasattr(module, name) for name in ("fuse", "reparameterize", "switch_to_deploy")):
            raise ModelError(
                f"{summary_of(model)['architecture']} merges its branches when it is exported, so "
                "rounding them during training would not match the file. Distil another network, such as "
                "mobilenetv4_conv_small."
            )


@torch.no_grad()
def follow(model: nn.Module) -> tuple[dict[nn.Module, _BatchNorm | None], list[nn.Module], list[nn.Module]]:
    """Run a network on a blank image and record which module produces and consumes which tensor.

    Tensors are identified by id and version, because activations and sums are often computed in place. A BatchNorm or
    ReLU is folded into the layer before it, here and in the file, only if nothing else reads what that layer makes.

    Returns:
        Each layer to quantise with the BatchNorm that is folded into it, or None; the modules whose output to round;
        and the modules whose input to round because no module produces it.
    """
    kept: list[Tensor] = []  # keeps tensors alive, so that no id is reused
    maker: dict[_TensorKey, nn.Module] = {}
    takers: dict[_TensorKey, list[nn.Module]] = {}
    taken: dict[nn.Module, _TensorKey] = {}
    made: dict[nn.Module, _TensorKey] = {}
    calls: Counter[nn.Module] = Counter()
    readers: Counter[_TensorKey] = Counter()  # operations that a tensor is given to, also without a module

    def key_of(tensor: Tensor) -> _TensorKey:
        kept.append(tensor)
        return id(tensor), tensor._version

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            readers.update({key_of(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)})
            return operation(*args, **(kwargs or {}))

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[module] += 1
        if args and isinstance(args[0], Tensor):
            taken[module] = key_of(args[0])
            takers.setdefault(taken[module], []).append(module)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[module] = key_of(output)
            maker.setdefault(made[module], module)

    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_pre_hook(before) for module in model.modules()]
    handles += [module.register_forward_hook(after) for module in model.modules()]
    try:
        model.eval()
        device = next(model.parameters()).device
        image = torch.zeros(1, 3, *preprocessing_of(model).input_size, device=device)
        with Counting():
            shown, embedding = key_of(image), key_of(model(image))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training

    def follower(key: _TensorKey, *kinds: type[T]) -> T | None:
        if readers[key] > 1:
            return None
        return next((module for module in takers.get(key, []) if isinstance(module, kinds)), None)

    layers: dict[nn.Module, _BatchNorm | None] = {}
    rounded: dict[_TensorKey, None] = {}
    for layer in made:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if taken[layer] == shown and layer.weight[0].numel() < FEWEST_TERMS:
            continue
        key = made[layer]
        batchnorm = follower(key, _BatchNorm) if isinstance(layer, nn.Conv2d) else None
        layers[layer] = batchnorm
        if batchnorm is not None:
            # timm's BatchNorm with an activation inside passes the normalised tensor to that.
            inner = getattr(batchnorm, "act", None)
            key = made[batchnorm] if inner is None else taken[inner]
        activation = follower(key, nn.ReLU, nn.ReLU6)
        rounded[key if activation is None else made[activation]] = None
    rounded.pop(embedding, None)
    inputs: list[nn.Module] = []
    for layer in layers:
        key = taken[layer]
        if key in maker and calls[maker[key]] == 1:
            rounded[key] = None
        else:
            inputs.append(layer)
    outputs = [maker[key] for key in rounded if key in maker and calls[maker[key]] == 1]
    return layers, outputs, inputs
