"""Check that weights fit: every tensor of a file is used, and every tensor of the network is filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from zoo.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file, by name, without reading them.

    Raises:
        ModelError: the file is not a safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be loaded ({error}). Train or download it again.") from error


def require_no_larger(make: Callable[[], nn.Module], file: Path, shapes: Shapes) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of a network's tensors without allocating them; refuse networks far larger than the file.

    A configuration can ask for more or larger layers than fit into any memory.

    Returns:
        The shapes by name; None if the network cannot be made without memory.

    Raises:
        ModelError: the network has more than 2 t + 100 tensors or 2 n + 1,000,000 numbers, where the file has t tensors
            and n numbers.
    """
    most_tensors, most_numbers = 2 * len(shapes) + 100, 2 * sum(map(math.prod, shapes.values())) + 10**6
    tensors = numbers = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is None or parameter.device.type != "meta":
            return
        tensors, numbers = tensors + 1, numbers + parameter.numel()
        if tensors > most_tensors or numbers > most_numbers:
            raise ModelError(
                f"{file} has {len(shapes)} tensors, and the network that config.json describes far more, or far larger "
                "ones: they do not belong together. Train or download the folder again."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    except ModelError:
        raise
    except Exception:  # some networks compute with their tensors while they are made; real errors show later
        return None
    finally:
        hook.remove()


def require_same_shapes(file: Path, held: Shapes, wanted: Shapes) -> None:
    """Refuse a weight file whose tensors differ from the network's in name or shape.

    Raises:
        ModelError: names the first tensor that differs.
    """
    for name in [*wanted, *held]:
        if held.get(name) != wanted.get(name):
            in_file = f"has shape {held[name]}" if name in held else "is missing"
            in_network = f"has shape {wanted[name]}" if name in wanted else "is missing"
            raise ModelError(
                f"{file} does not fit its config.json: {name} {in_file} in the file, and {in_network} in the network. "
                "Train or download the folder again."
            )


def require_filled(model: nn.Module, file: Path, again: Callable[[], nn.Module]) -> None:
    """Refuse a network that timm did not fill completely from a foreign weight file, or a file it did not use fully.

    timm renames and rearranges foreign tensors, and drops a head of another size. A tensor counts as loaded if the file
    has its values under any name, or if it is the same when the model is loaded again from another seed.

    Args:
        model: the loaded model.
        file: its weights, safetensors.
        again: loads the model again.

    Raises:
        ModelError: names a tensor that was not filled or not used.
    """
    with safe_open(file, framework="pt") as opened:
        held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    state = model.state_dict()
    by_content: dict[tuple[int, float], list[str]] = {}
    for name, tensor in held.items():
        by_content.setdefault(_content(tensor), []).append(name)
    landed: set[str] = set()
    open_names = []
    for name, tensor in state.items():
        alike = by_content.get(_content(tensor.cpu()), [])
        landed.update(alike)
        if not alike and tensor.is_floating_point():
            open_names.append(name)
    if open_names:
        other = _of_another_seed(again).state_dict()
        for name in open_names:
            constant = bool((state[name] == state[name].flatten()[:1]).all())
            if (constant and name not in held) or not torch.equal(state[name], other[name]):
                raise ModelError(f"{file} does not fill {name} of the network, which would be random. {_REMEDY}")
        return  # rearranged tensors cannot be found in the file either
    for name in held.keys() - landed:
        if held[name].is_floating_point():  # integers, such as indices, are recomputed
            raise ModelError(f"{file} has {name}, for which the network has no place. {_REMEDY}")


_REMEDY = "Its config.json, such as num_classes, is of another model; download both again."


def _of_another_seed(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        return make()


def _content(tensor: Tensor) -> tuple[int, float]:
    return tensor.numel(), float(tensor.double().sum())
