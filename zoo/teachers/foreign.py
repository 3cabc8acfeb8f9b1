"""Foreign teachers as modules: functions, exported programs, quantised and scripted networks."""

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

_CLASSES_OF_PUBLISHED_SETS = frozenset({1000, 1001, 10450, 11221, 11821, 18291, 21841, 21843})  # mostly ImageNet's


class Called(nn.Module):
    """Wraps something that can only be called: a function, or a module that has no training mode or cannot be moved.

    It is called on the device of its weights, or on the CPU if it has none, and in its own batch size if that is fixed.

    Args:
        call: takes float ``(N, 3, H, W)``, returns ``(N, D)``.
    """

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._call = (call,)  # in a tuple, so that it is not a submodule, which would be moved and put in eval mode
        shape = _exported_shape(call)
        self.batch = shape[0] if shape and isinstance(shape[0], int) else None
        self.input_size = tuple(shape[2:]) if len(shape) == 4 and all(isinstance(n, int) for n in shape[2:]) else None

    def forward(self, pixels: Tensor) -> Any:
        """Embed ``(N, 3, H, W)``, in parts of the exported batch size if that is fixed."""
        weight = next(self.parameters(), None)
        given = pixels.to(torch.device("cpu") if weight is None else weight.device)
        if self.batch is None:
            return _moved(self._call[0](given), pixels.device)
        parts = list(given.split(self.batch))
        missing = self.batch - len(parts[-1])
        parts[-1] = torch.cat([parts[-1], parts[-1][-1:].expand(missing, -1, -1, -1)])
        return torch.cat([_moved(self._call[0](part), pixels.device) for part in parts])[: len(pixels)]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the weights of the called module, if it is one."""
        call = self._call[0]
        return call.parameters(recurse) if isinstance(call, nn.Module) else iter(())

    def state(self) -> Any:
        """Return the input of the digest: weights and code, or, for a function, its output for a fixed image."""
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
        except Exception:  # foreign functions may raise anything; their use will report it
            return [_name_of(call)]


def as_module(teacher: nn.Module | ExportedProgram | Callable[[Tensor], Any]) -> nn.Module:
    """Return a teacher as a module in eval mode: the network in a wrapper, or a ``Called``.

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
    """Return a teacher's name for reports."""
    call = teacher._call[0] if isinstance(teacher, Called) else teacher
    return _name_of(call)


def state_of(module: nn.Module) -> Iterator[bytes]:
    """Yield everything that a module's embeddings depend on as bytes: names and values of its state."""
    if isinstance(module, Called):
        yield from bytes_of(module.state(), _pickled)
        return
    for key, value in module.state_dict().items():
        yield key.encode()
        yield from bytes_of_tensor(value) if isinstance(value, Tensor) else bytes_of(value, _pickled)


def assumption_of_file(name: str, preprocessing: Preprocessing, metric: str | None, takes_bytes: bool) -> str:
    """Return the note of :func:`assumption` for a file, whose name can be followed by options.

    Args:
        name: name of the file.
        preprocessing: the assumed preprocessing.
        metric: the assumed metric; None if it is known.
        takes_bytes: whether it takes uint8 pixels.
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
    """Return a note on the preprocessing and metric that are assumed for a network that does not define them.

    Args:
        preprocessing: the assumed preprocessing.
        metric: the assumed metric; None if it is known.
        normal: how pixels are normalised, in words.
        remedy: what to do if the assumption is wrong, in a sentence.
    """
    height, width = preprocessing.input_size
    compared = "" if metric is None else f" and {metric} distance"
    return (
        f"it does not say how to preprocess images. Assumed: {height} x {width} pixels, {normal}, the centre "
        f"{preprocessing.crop_pct:g} of the resized image{compared}. {remedy}"
    )


def is_of_published_classes(dim: int | None) -> bool:
    """Return whether an embedding has as many dimensions as a published data set has classes."""
    return dim in _CLASSES_OF_PUBLISHED_SETS


def classifier_note(dim: int | None) -> str:
    """Return a note if an embedding has as many dimensions as a published data set has classes, else ""."""
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
    """Return whether a module has packed or quantised weights, which run on CPUs only."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    values = module.state_dict().values()
    return any(isinstance(value, torch.ScriptObject) or getattr(value, "is_quantized", False) for value in values)


def _exported_shape(call: Any) -> list[Any]:
    """Return the input shape that a program was exported with, None for dynamic sides; [] unless it has one input."""
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
    except Exception:  # not every object can be pickled
        return type(value).__name__.encode()
