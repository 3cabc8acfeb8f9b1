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

Rounding passes gradients straight through inside the range and none outside (Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from zoo.errors import ModelError, require_known
from zoo.models.int8_speed import FEWEST_TERMS
from zoo.models.making import preprocessing_of, summary_of

SCHEMES = {"u8s8": (0, 255), "s8s8": (-128, 127)}
"""Activations of each scheme, smallest and largest integer: uint8 and asymmetric, or int8 and symmetric.

Int8 and asymmetric is the arithmetic of u8s8, with all integers lower by 128.
"""

T = TypeVar("T", bound=nn.Module)
_TensorKey = tuple[int, int]
_Observe = Callable[[Tensor, Tensor], Tensor]  # from a bound and what was seen to the new bound
_SMALLEST = torch.finfo(torch.float32).tiny


def fake_quantize_weight(weight: Tensor, per_channel: bool, factors: Tensor | None = None) -> Tensor:
    """Round a weight to int8, symmetric, and back to float.

    Args:
        weight: float ``(C, ...)``, output channels first.
        per_channel: one scale for each output channel, else one for all.
        factors: float ``(C,)``, what BatchNorm multiplies the output channels by: the weight is rounded as multiplied
            by them, and divided again. None for no BatchNorm.

    Returns:
        The shape of ``weight``, float32.
    """
    with torch.autocast(weight.device.type, enabled=False):
        folded = weight.float()
        if factors is not None:
            factors = factors.detach().float().view(-1, *[1] * (weight.ndim - 1))
            folded = folded * factors
        magnitudes = folded.detach().abs().flatten(1).amax(1)
        if not per_channel:
            magnitudes = magnitudes.amax().expand(len(weight))
        scales = (magnitudes / 127).clamp(min=_SMALLEST)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(folded, scales, zeros, 0, -128, 127)
        return rounded if factors is None else rounded / torch.where(factors == 0, 1, factors)


def fake_quantize_activation(tensor: Tensor, low: Tensor, high: Tensor, scheme: str) -> Tensor:
    """Round an activation to 8 bits, one scale for all of it, and back to float.

    Args:
        tensor: float, any shape.
        low: float scalar, at most 0: the least value that is not cut off.
        high: float scalar, at least 0: the greatest.
        scheme: one of ``SCHEMES``.

    Returns:
        The shape and dtype of ``tensor``.
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
        layers, outputs, inputs = _follow(model)
        self.ranges = nn.ModuleList()
        self._weights: list[_RoundedWeight] = []
        self._layers = list(layers)
        for layer, batchnorm in layers.items():
            self._weights.append(_RoundedWeight(per_channel, batchnorm))
            parametrize.register_parametrization(layer, "weight", self._weights[-1])
        self._handles: list[RemovableHandle] = []
        for module in outputs:
            self.ranges.append(made := _Range(scheme))
            self._handles.append(module.register_forward_hook(partial(_round_output, made)))
        for module in inputs:
            self.ranges.append(made := _Range(scheme))
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
    def _set(self, observe: _Observe, rounding: bool = True) -> Iterator[None]:
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


class _Range(nn.Module):
    """Rounds what passes to 8 bits in its range, and observes it when told to."""

    low: Tensor
    high: Tensor

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.scheme = scheme
        self.observe: _Observe | None = None
        self.rounding = True
        self.register_buffer("low", torch.zeros(()))  # zero is always in the range
        self.register_buffer("high", torch.zeros(()))

    def forward(self, tensor: Tensor) -> Tensor:
        if self.observe is not None:
            least, greatest = torch.aminmax(tensor.detach().float())
            self.low.copy_(self.observe(self.low, least.clamp(max=0)))
            self.high.copy_(self.observe(self.high, greatest.clamp(min=0)))
        return fake_quantize_activation(tensor, self.low, self.high, self.scheme) if self.rounding else tensor


class _RoundedWeight(nn.Module):
    """A layer's weight rounded to int8, as its BatchNorm scales it."""

    def __init__(self, per_channel: bool, batchnorm: _BatchNorm | None) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.rounding = True
        self._batchnorm = (batchnorm,)  # hidden in a tuple: its parameters are the network's, not this module's

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
        return fake_quantize_weight(weight, self.per_channel, factors)


def _round_output(made: _Range, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    rounded: Tensor = made(output)
    return rounded


def _round_input(made: _Range, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return made(args[0]), *args[1:]


def require_unbranched(model: nn.Module) -> None:
    """Raise a ModelError where a network merges branches into one convolution when it is exported."""
    for module in model.modules():
        if any(hasattr(module, name) for name in ("fuse", "reparameterize", "switch_to_deploy")):
            raise ModelError(
                f"{summary_of(model)['architecture']} merges branches into one convolution when it is exported, which "
                "rounding the branches does not foresee. Distil another network, such as mobilenetv4_conv_small."
            )


@torch.no_grad()
def _follow(model: nn.Module) -> tuple[dict[nn.Module, _BatchNorm | None], list[nn.Module], list[nn.Module]]:
    """Run a network on a blank image and note which module makes and takes which tensor.

    Tensors are told apart by identity and version, since activations and sums are often computed in place.

    Returns:
        Each layer to quantise with the BatchNorm that follows it directly, or None; the modules whose output is to be
        rounded; and the modules whose input is, since no module makes it.
    """
    kept: list[Tensor] = []  # so that no identity is given to another tensor
    maker: dict[_TensorKey, nn.Module] = {}
    takers: dict[_TensorKey, list[nn.Module]] = {}
    taken: dict[nn.Module, _TensorKey] = {}
    made: dict[nn.Module, _TensorKey] = {}
    calls: Counter[nn.Module] = Counter()

    def key_of(tensor: Tensor) -> _TensorKey:
        kept.append(tensor)
        return id(tensor), tensor._version

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
        shown, embedding = key_of(image), key_of(model(image))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training

    def follower(key: _TensorKey, *kinds: type[T]) -> T | None:
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
            # timm's BatchNorm with an activation inside hands the normalised tensor to that.
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
