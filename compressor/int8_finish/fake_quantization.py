"""A float network that computes as if it were quantised to 8 bits, in eager mode: for any timm network.

What is rounded is what onnxruntime's static quantiser rounds in the exported graph, whose operators are Conv and Gemm
and whose BatchNorms are folded into the convolutions:

- the weights of every ``nn.Conv2d`` and ``nn.Linear``: int8, symmetric, one scale for each output channel or one a
  layer. One a layer is taken of the weights as BatchNorm scales them, since that is what the file holds; scales of
  channels do not depend on it.
- the input of each such layer, where the tensor is made, so that a shortcut beside it sees the rounded tensor too.
- the output of each, after the BatchNorm, and after the ReLU or ReLU6 where one follows directly. The network's own
  output, the embedding, stays in float.

A first layer of few products (``zoo.models.int8_speed.FEWEST_TERMS``) stays in float, as there.

Sums, pooling, other activations and the normalisation of the embedding are computed in float, of rounded inputs. Biases
are not rounded: the file holds them in 32 bits. Products of two activations, as in attention, are not seen.
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
from compressor.int8_finish.rounding import SCHEMES, Observe, Range, RoundedWeight
from zoo.errors import require_known


class FakeQuantization(nn.Module):
    """Makes a network compute as if quantised, until :meth:`remove`; holds the ranges of its activations.

    Ranges are empty at first: embed some images in a block of :meth:`calibrating` before use.

    Args:
        model: a timm model; stays what it is, but that its layers' weights are parametrised.
        scheme: one of ``SCHEMES``.
        per_channel: weights have a scale for each output channel, rather than one a layer.

    Raises:
        OptionError: no such scheme.
        ModelError: branches of the network become one convolution in the exported graph, and would be rounded apart.
    """

    def __init__(self, model: nn.Module, scheme: str = "u8s8", per_channel: bool = True) -> None:
        super().__init__()
        require_known("scheme", scheme, SCHEMES)
        require_unbranched(model)
        layers, outputs, inputs = follow(model)
        self.ranges = nn.ModuleList()
        self._weights: list[RoundedWeight] = []
        self._layers = list(layers)
        for layer, batchnorm in layers.items():
            self._weights.append(RoundedWeight(per_channel, batchnorm))
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
        """Let the ranges follow the batches of a block as a moving average; ``rate`` is the weight of a batch."""
        with self._set(lambda bound, seen: torch.lerp(bound, seen, rate)):
            yield

    @contextlib.contextmanager
    def calibrating(self) -> Iterator[None]:
        """Widen the ranges to the least and greatest values that pass in a block, in which nothing is rounded."""
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
        """Make the network plain again; its weights are what they are before rounding."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        self._handles, self._layers, self._weights = [], [], []


@contextlib.contextmanager
def fake_quantized(
    model: nn.Module, batches: Iterable[Tensor], scheme: str = "u8s8", per_channel: bool = True
) -> Iterator[FakeQuantization]:
    """Let a network compute as if quantised in a block, for embedding with it.

    Args:
        model: a timm model in eval mode; plain again after the block.
        batches: float32 ``(N, 3, H, W)``, its input for the calibration images, on its device.
        scheme: one of ``SCHEMES``.
        per_channel: weights have a scale for each output channel, rather than one a layer.

    Raises:
        UserError: see :class:`FakeQuantization`.
    """
    quantization = FakeQuantization(model, scheme, per_channel).to(next(model.parameters()).device)
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
