"""A float network that computes as if quantised to 8 bits, in eager mode, for any timm network.

It rounds what onnxruntime's static quantiser rounds in the exported graph, whose operators are Conv and Gemm and whose
BatchNorms are folded into the convolutions:

- the weights of every ``nn.Conv2d`` and ``nn.Linear``: 8 or 7 bits, symmetric, one scale per output channel or layer. A
  scale per layer is that of the weights as scaled by BatchNorm, since the file holds those; rounding with scales per
  channel does not depend on it.
- the input of each such layer, rounded where the tensor is made, so that a shortcut sees the rounded tensor too.
- the output of each, after the BatchNorm, and after the ReLU or ReLU6, if one follows directly and nothing else reads
  what comes before it. The network's own output, the embedding, stays in float.

A first layer with few products (``zoo.models.int8_speed.FEWEST_TERMS``) stays in float, as in the file.

Sums, pooling, other activations and the normalisation of the embedding are computed in float from rounded inputs.
Biases are not rounded: the file holds them in 32 bits. Products of two activations, as in attention, are not covered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from compressor.int8_finish.following import follow, require_unbranched
from compressor.int8_finish.rounding import SCHEMES, Observe, Range, RoundedWeight, require_weight_bits
from zoo.errors import require_known


class FakeQuantization(nn.Module):
    """Makes a network compute as if quantised, until :meth:`remove`; holds the ranges of its activations.

    Ranges are empty at first: embed some images in a :meth:`calibrating` block before use.

    Args:
        model: a timm model, modified in place: its layers' weights become parametrised.
        scheme: one of ``SCHEMES``.
        per_channel: whether weights have one scale per output channel rather than per layer.
        weight_bits: 8, or 7 as in files for x86 without VNNI.

    Raises:
        OptionError: unknown scheme or number of bits.
        ModelError: branches of the network become one convolution in the exported graph, but would be rounded
            separately.
    """

    def __init__(self, model: nn.Module, scheme: str = "u8s8", per_channel: bool = True, weight_bits: int = 8) -> None:
        super().__init__()
        require_known("scheme", scheme, SCHEMES)
        require_weight_bits(weight_bits)
        require_unbranched(model)
        layers, outputs, inputs = follow(model)
        self.ranges = nn.ModuleList()
        self._weights: list[RoundedWeight] = []
        self._layers = list(layers)
        for layer, batchnorm in layers.items():
            self._weights.append(RoundedWeight(per_channel, batchnorm, weight_bits))
            parametrize.register_parametrization(layer, "weight", self._weights[-1])
        self._handles: list[RemovableHandle] = []
        for module in outputs:
            self.ranges.append(made := Range(scheme))
            self._handles.append(module.register_forward_hook(partial(_round_output, made)))
        for module in inputs:
            self.ranges.append(made := Range(scheme))
            self._handles.append(module.register_forward_pre_hook(partial(_round_input, made)))

    @property
    def calibrated(self) -> bool:
        """Whether any range has been observed."""
        return any(bool(made.high > made.low) for made in self.ranges)  # type: ignore[operator]

    @contextlib.contextmanager
    def observing(self, rate: float) -> Iterator[None]:
        """Update the ranges as a moving average over the batches in the block; ``rate`` is the weight of a batch."""
        with self._set(lambda bound, seen: torch.lerp(bound, seen, rate)):
            yield

    @contextlib.contextmanager
    def calibrating(self) -> Iterator[None]:
        """Widen the ranges to the smallest and largest values seen in the block; nothing is rounded in it."""
        with self._set(_wider, rounding=False):
            yield

    @contextlib.contextmanager
    def _set(self, observe: Observe, rounding: bool = True) -> Iterator[None]:
        switched = [*self.ranges, *self._weights]
        for made in self.ranges:
            made.observe = observe  # type: ignore[assignment]
        for module in switched:
            module.rounding = rounding  # type: ignore[assignment]
        try:
            yield
        finally:
            for made in self.ranges:
                made.observe = None  # type: ignore[assignment]
            for module in switched:
                module.rounding = True  # type: ignore[assignment]

    def remove(self) -> None:
        """Make the network plain again, with its unrounded weights."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        self._handles, self._layers, self._weights = [], [], []


@contextlib.contextmanager
def fake_quantized(
    model: nn.Module,
    batches: Iterable[Tensor],
    scheme: str = "u8s8",
    per_channel: bool = True,
    weight_bits: int = 8,
) -> Iterator[FakeQuantization]:
    """Make a network compute as if quantised within the block, to embed with it.

    Args:
        model: a timm model in eval mode; plain again after the block.
        batches: its input for the calibration images, float32 ``(N, 3, H, W)``, on its device.
        scheme: one of ``SCHEMES``.
        per_channel: whether weights have one scale per output channel rather than per layer.
        weight_bits: 8, or 7 as in files for x86 without VNNI.

    Raises:
        UserError: see :class:`FakeQuantization`.
    """
    quantization = FakeQuantization(model, scheme, per_channel, weight_bits).to(next(model.parameters()).device)
    try:
        with quantization.calibrating(), torch.no_grad():
            for batch in batches:
                model(batch)
        yield quantization
    finally:
        quantization.remove()


def _wider(bound: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen.abs() > bound.abs(), seen, bound)


def _round_output(made: Range, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    rounded: Tensor = made(output)
    return rounded


def _round_input(made: Range, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return made(args[0]), *args[1:]
