"""Nested values with tensors as bytes for a digest: checkpoints, and the state of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def _name_of_type(value: Any) -> bytes:
    return type(value).__name__.encode()


def bytes_of(value: Any, other: Callable[[Any], bytes] = _name_of_type) -> Iterator[bytes]:
    """Yield the content of tensors, numbers and texts, in mappings and lists; different values give different bytes.

    Args:
        value: the value. The order of a mapping does not matter.
        other: returns bytes for values of other types; by default the name of the type.
    """
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield from bytes_of_tensor(value)
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}".encode()
        for key in sorted(value, key=repr):  # safetensors orders names, dictionaries do not
            yield from bytes_of(key, other)
            yield from bytes_of(value[key], other)
    elif isinstance(value, list | tuple):
        yield f"list of {len(value)}".encode()
        for item in value:
            yield from bytes_of(item, other)
    elif isinstance(value, torch.ScriptObject):
        yield from bytes_of(value.__getstate__(), other)  # type: ignore[attr-defined]
    elif isinstance(value, float):
        yield f"float {float(value)!r} ".encode()
    elif value is None or isinstance(value, bool | int | str | bytes | torch.dtype):
        yield f"{value!r} ".encode(errors="surrogatepass")
    else:
        yield other(value)


def bytes_of_tensor(tensor: Tensor) -> Iterator[bytes]:
    """Yield the numbers of a tensor as bytes, whether it is dense, sparse, quantised or of a subclass."""
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        yield from bytes_of([tensor.int_repr(), tensor.dequantize()])
    elif type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        yield from bytes_of([getattr(tensor, name) for name in names])
    else:
        dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
        yield dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
