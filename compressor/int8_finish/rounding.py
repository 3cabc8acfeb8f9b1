"""Round weights and activations to 8 bits and back to float, in eager mode, with gradients.

Rounding passes gradients straight through inside the range and none outside (Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import OptionError, shown

SCHEMES = {"u8s8": (0, 255), "s8s8": (-128, 127)}
"""Smallest and largest integer of activations by scheme: uint8 and asymmetric, or int8 and symmetric.

Asymmetric int8 is the arithmetic of u8s8 with all integers shifted by -128.
"""
LARGEST_WEIGHT = {8: 127, 7: 64}
"""Largest integer of weights by their number of bits; the smallest is its negative. 64 is onnxruntime's."""
Observe = Callable[[Tensor, Tensor], Tensor]  # takes a bound and the extreme value seen, returns the new bound
_SMALLEST = torch.finfo(torch.float32).tiny


def require_weight_bits(bits: int) -> None:
    """Raise an OptionError if weights cannot have so many bits."""
    if bits not in LARGEST_WEIGHT:
        raise OptionError(f"weight_bits is {shown(bits)}; it must be 8, or 7 for x86 without VNNI.")


def fake_quantize_weight(weight: Tensor, per_channel: bool, factors: Tensor | None = None, bits: int = 8) -> Tensor:
    """Round a weight to 8 or 7 bits, symmetric, and back to float.

    Args:
        weight: float ``(C, ...)``, output channels first.
        per_channel: whether there is one scale per output channel rather than one for all.
        factors: float ``(C,)``, BatchNorm's factor for each output channel: the weight is multiplied by it, rounded,
            and divided again. None for no BatchNorm.
        bits: 8 or 7.

    Returns:
        float32, shaped like ``weight``.
    """
    with torch.autocast(weight.device.type, enabled=False):
        folded = weight.float()
        if factors is not None:
            factors = factors.detach().float().view(-1, *[1] * (weight.ndim - 1))
            folded = folded * factors
        magnitudes = folded.detach().abs().flatten(1).amax(1)
        if not per_channel:
            magnitudes = magnitudes.amax().expand(len(weight))
        scales = (magnitudes / LARGEST_WEIGHT[bits]).clamp(min=_SMALLEST)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(folded, scales, zeros, 0, -128, 127)
        return rounded if factors is None else rounded / torch.where(factors == 0, 1, factors)


def fake_quantize_activation(tensor: Tensor, low: Tensor, high: Tensor, scheme: str) -> Tensor:
    """Round an activation to 8 bits with one scale, and back to float.

    Args:
        tensor: float, any shape.
        low: float scalar, at most 0: the smallest value that is not clipped.
        high: float scalar, at least 0: the largest.
        scheme: one of ``SCHEMES``.

    Returns:
        Shape and dtype of ``tensor``.
    """
    smallest, largest = SCHEMES[scheme]
    if scheme == "s8s8":
        scale = torch.maximum(-low, high) / 127
        zero = torch.zeros_like(low)
    else:
        scale = (high - low) / 255
        zero = (-low / scale.clamp(min=_SMALLEST)).round()
    with torch.autocast(tensor.device.type, enabled=False):
        rounded = torch.fake_quantize_per_tensor_affine(
            tensor.float(), scale.clamp(min=_SMALLEST), zero.to(torch.int32), smallest, largest
        )
    return rounded.to(tensor.dtype)


class Range(nn.Module):
    """Rounds a tensor to 8 bits within a range; updates the range first if ``observe`` is set."""

    low: Tensor
    high: Tensor

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.scheme = scheme
        self.observe: Observe | None = None
        self.rounding = True
        self.register_buffer("low", torch.zeros(()))  # zero is always in the range
        self.register_buffer("high", torch.zeros(()))

    def forward(self, tensor: Tensor) -> Tensor:
        if self.observe is not None:
            least, greatest = torch.aminmax(tensor.detach().float())
            self.low.copy_(self.observe(self.low, least.clamp(max=0)))
            self.high.copy_(self.observe(self.high, greatest.clamp(min=0)))
        return fake_quantize_activation(tensor, self.low, self.high, self.scheme) if self.rounding else tensor


class RoundedWeight(nn.Module):
    """Rounds a layer's weight to 8 or 7 bits, as scaled by its BatchNorm."""

    def __init__(self, per_channel: bool, batchnorm: _BatchNorm | None, bits: int = 8) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.bits = bits
        self.rounding = True
        self._batchnorm = (batchnorm,)  # in a tuple, so that its parameters are not registered here as well

    def forward(self, weight: Tensor) -> Tensor:
        if not self.rounding:
            return weight
        (batchnorm,) = self._batchnorm
        factors = None
        if batchnorm is not None and not self.per_channel:
            variance = batchnorm.running_var
            assert variance is not None
            factors = torch.rsqrt(variance + batchnorm.eps)
            factors = factors if batchnorm.weight is None else factors * batchnorm.weight
        return fake_quantize_weight(weight, self.per_channel, factors, self.bits)
