"""Teachers of other makes as modules: functions, exported programs, quantised and scripted networks."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from zoo.errors import ModelError
from zoo.models.content import bytes_of, bytes_of_tensor
from zoo.models.preprocessing import Preprocessing
from zoo.models.wrappers import network_in

_CLASSES_OF_PUBLISHED_SETS = frozenset({1000, 1001, 10450, 11221, 11821, 18291, 21841, 21843})  # ImageNet's, mostly


class Called(nn.Module):
    """What can only be called: a function, or a module without a training mode or that cannot be moved.

    It is called where its weights are, on the CPU where it has none, and in its own batch size where that is fixed.

    Args:
        call: takes float ``(N, 3, H, W)``, gives ``(N, D)``.
    """

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._call = (call,)  # in a tuple: not a part that is put in eval mode and moved
        shape = _exported_shape(call)
        self.batch = shape[0] if shape and isinstance(shape[0], int) else None
        self.input_size = tuple(shape[2:]) if len(shape) == 4 and all(isinstance(n, int) for n in shape[2:]) else None

    def forward(self, pixels: Tensor) -> Any:
        """Embed ``(N, 3, H, W)``, in parts of the batch size that the program was exported with, if that is fixed."""
        weight = next(self.parameters(), None)
        given = pixels.to(torch.device("cpu") if weight is None else weight.device)
        if self.batch is None:
            return _moved(self._call[0](given), pixels.device)
        parts = list(given.split(self.batch))
        missing = self.batch - len(parts[-1])
        parts[-1] = torch.cat([parts[-1], parts[-1][-1:].expand(missing, -1, -1, -1)])
        return torch.cat([_moved(self._call[0](part), pixels.device) for part in parts])[: len(pixels)]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the weights of what is called."""
        call = self._call[0]
        return call.parameters(recurse) if isinstance(call, nn.Module) else iter(())

    def state(self) -> Any:
        """Return what the digest is made of: weights and code, or, of a function, what it makes of a fixed image."""
        call = self._call[0]
        if isinstance(call, nn.Module):
            return [getattr(call, "code", ""), dict(call.state_dict())]
        random = torch.Generator().manual_seed(0)
        shown = torch.rand(1, 3, *(self.input_size or (224, 224)), generator=random)
        try:
            with torch.no_grad():
                found = call(shown).flatten().double().cpu()
            # A few rounded numbers: the last digits may differ from call to call.
            summary = torch.randn(8, len(found), generator=random, dtype=torch.double) @ found
            return [_name_of(call), len(found), (summary / found.norm().clamp(min=1e-12)).mul(1000).round()]
        except Exception:  # functions of others fail in ways of their own; where this one is used, it is named
            return [_name_of(call)]


def as_module(teacher: nn.Module | ExportedProgram | Callable[[Tensor], Any]) -> nn.Module:
    """Return what is given as a module in eval mode: the network in a wrapper, or what is called as it is.

    Raises:
        ModelError: a parameter has no values yet.
    """
    if isinstance(teacher, ExportedProgram):
        teacher = teacher.module()
    if not isinstance(teacher, nn.Module):
        return Called(teacher)
    network = network_in(teacher)
    _require_values(network)
    try:
        network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (NotImplementedError, RuntimeError, AttributeError):  # exported or frozen, or of other dimensions
        return Called(network)
    return Called(network) if _is_quantized(network) else network


def name_of(teacher: Any) -> str:
    """Return what a teacher is called in reports."""
    call = teacher._call[0] if isinstance(teacher, Called) else teacher
    return _name_of(call)


def state_of(module: nn.Module) -> Iterator[bytes]:
    """Return what a module's embeddings depend on, as bytes: names and values of its state, whatever lies in it."""
    if isinstance(module, Called):
        yield from bytes_of(module.state(), _pickled)
        return
    for key, value in module.state_dict().items():
        yield key.encode()
        yield from bytes_of_tensor(value) if isinstance(value, Tensor) else bytes_of(value, _pickled)


def assumption_of_file(name: str, preprocessing: Preprocessing, metric: str | None, takes_bytes: bool) -> str:
    """Return that note for a file, whose name can be followed by what is right.

    Args:
        name: of the file.
        preprocessing: what is taken.
        metric: what is taken, too; None where it is known.
        takes_bytes: it takes pixels as they are.
    """
    normal = "bytes, which the file normalises" if takes_bytes else "ImageNet's mean and deviation"
    example = "resize=squash" if takes_bytes else "mean=0.5,std=0.5,resize=squash"
    remedy = f"If this is wrong, add what is right to the name, such as {name}#{example}."
    return assumption(preprocessing, metric, normal, remedy)


def assumption(
    preprocessing: Preprocessing,
    metric: str | None,
    normal: str = "ImageNet's mean and deviation",
    remedy: str = "If this is wrong, give TorchTeacher its preprocessing and metric.",
) -> str:
    """Return a note of what is assumed of a network that does not say how pixels become its input.

    Args:
        preprocessing: what is taken.
        metric: what is taken, too; None where it is known.
        normal: how pixels are normalised, in words.
        remedy: what to do if the assumption is wrong, a sentence.
    """
    height, width = preprocessing.input_size
    compared = "" if metric is None else f" and {metric} distance"
    return (
        f"it does not say how to preprocess images. Assumed: {height} x {width} pixels, {normal}, the centre "
        f"{preprocessing.crop_pct:g} of the resized image{compared}. {remedy}"
    )


def is_of_published_classes(dim: int | None) -> bool:
    """Return whether an embedding has as many numbers as a published set has classes."""
    return dim in _CLASSES_OF_PUBLISHED_SETS


def classifier_note(dim: int | None) -> str:
    """Return a note where an embedding has as many numbers as a published set has classes, else an empty text."""
    if not is_of_published_classes(dim):
        return ""
    return (
        f"it gives {dim:,} numbers, as a classifier of ImageNet does. If they are its logits, take the layer before "
        "them, which retrieves better: timm's num_classes=0, or torch.nn.Identity in place of the last layer."
    )


def _require_values(module: nn.Module) -> None:
    named = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in named:
        if is_lazy(tensor):
            raise ModelError(
                f"Teacher {type(module).__name__} has a parameter without values, {name}: it belongs to a lazy module. "
                "Run it on an image once, and load its weights."
            )
        if tensor.is_meta:
            raise ModelError(
                f"Teacher {type(module).__name__} has a parameter without values, {name}: it is on the meta device. "
                "Move it with to_empty, and load its weights."
            )


def _is_quantized(module: nn.Module) -> bool:
    """Return whether a module holds packed or quantised weights, which run on CPUs alone."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    values = module.state_dict().values()
    return any(isinstance(value, torch.ScriptObject) or getattr(value, "is_quantized", False) for value in values)


def _exported_shape(call: Any) -> list[Any]:
    """Return the shape of the one input that a program was exported with: numbers, and None where any will do."""
    graph = getattr(call, "graph", None) if isinstance(call, torch.fx.GraphModule) else None
    found = (
        [node.meta["val"] for node in graph.nodes if node.op == "placeholder" and "val" in node.meta] if graph else []
    )
    if len(found) != 1 or not isinstance(found[0], Tensor):
        return []
    return [side if type(side) is int else None for side in found[0].shape]


def _moved(output: Any, device: torch.device) -> Any:
    return output.to(device) if isinstance(output, Tensor) else output


def _name_of(call: Any) -> str:
    return getattr(call, "original_name", None) or getattr(call, "__name__", None) or type(call).__name__


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value)  # written, never read
    except Exception:  # objects of others need not have a lasting form
        return type(value).__name__.encode()
