"""Rounding against hand-worked numbers, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.int8_finish.rounding import SCHEMES, fake_quantize_activation, fake_quantize_weight


def test_a_weight_by_hand() -> None:
    weight = torch.tensor([[1.27, -0.014], [0.127, 0.0006]])
    # Scales 0.01 and 0.001: -1.4 steps are -1, 0.6 steps are 1.
    expected = torch.tensor([[1.27, -0.01], [0.127, 0.001]])
    torch.testing.assert_close(fake_quantize_weight(weight, per_channel=True), expected)
    # One scale of 0.01: 12.7 steps are 13, 0.06 none.
    expected = torch.tensor([[1.27, -0.01], [0.13, 0.0]])
    torch.testing.assert_close(fake_quantize_weight(weight, per_channel=False), expected)


def test_a_weight_of_seven_bits_by_hand() -> None:
    weight = torch.tensor([[0.64, -0.014], [0.064, 0.0006]])  # of 64 steps, of 0.01 and 0.001
    expected = torch.tensor([[0.64, -0.01], [0.064, 0.001]])
    torch.testing.assert_close(fake_quantize_weight(weight, per_channel=True, bits=7), expected)


def test_a_weight_is_rounded_as_batchnorm_scales_it() -> None:
    weight, factors = torch.tensor([[1.27, -0.014], [0.127, 0.0006]]), torch.tensor([1.0, -10.0])
    # Folded, the second channel is -1.27 and -0.006: 0.6 steps of 0.01 are 1.
    expected = torch.tensor([[1.27, -0.01], [0.127, 0.001]])
    torch.testing.assert_close(fake_quantize_weight(weight, False, factors), expected)
    # A scale for each channel is scaled with it: the factors change nothing.
    torch.testing.assert_close(fake_quantize_weight(weight, True, factors), fake_quantize_weight(weight, True))
    # A channel that BatchNorm leaves out does not widen the scale of the others.
    only_second = fake_quantize_weight(weight, False, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(only_second, torch.tensor([[0.0, 0.0], [0.127, 0.001]]))


@pytest.mark.parametrize("shape", [(6, 1, 3, 3), (6, 2, 1, 1), (6, 4)])  # depthwise, grouped, linear
def test_a_scale_for_each_output_channel(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rounded = fake_quantize_weight(weight, per_channel=True).numpy()
    for channel, of_channel in enumerate(weight.numpy()):
        scale = np.abs(of_channel).max() / 127
        np.testing.assert_allclose(rounded[channel], np.round(of_channel / scale) * scale, rtol=1e-5)


def test_an_activation_by_hand() -> None:
    tensor = torch.tensor([-2.0, -0.5, 0.004, 0.006, 1.234, 2.05, 3.0])
    low, high = torch.tensor(-0.5), torch.tensor(2.05)  # 255 steps of 0.01, zero at 50
    expected = torch.tensor([-0.5, -0.5, 0.0, 0.01, 1.23, 2.05, 2.05])
    torch.testing.assert_close(fake_quantize_activation(tensor, low, high, "u8s8"), expected)
    low, high = torch.tensor(-0.5), torch.tensor(1.27)  # 127 steps of 0.01 on either side
    expected = torch.tensor([-1.28, -0.5, 0.0, 0.01, 1.23, 1.27, 1.27])
    torch.testing.assert_close(fake_quantize_activation(tensor, low, high, "s8s8"), expected)
    zeros = fake_quantize_activation(torch.zeros(3), torch.tensor(0.0), torch.tensor(0.0), "u8s8")
    assert zeros.tolist() == [0, 0, 0]


def test_gradients_pass_straight_through() -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.arange(12.0).view(4, 3)
    for per_channel, factors in ((True, None), (False, None), (False, torch.tensor([0.5, 2.0, -1.0, 3.0]))):
        (gradient,) = torch.autograd.grad(fake_quantize_weight(weight, per_channel, factors), weight, upstream)
        torch.testing.assert_close(gradient, upstream)
    tensor = torch.tensor([-1.0, 0.3, 5.0], requires_grad=True)
    for scheme in SCHEMES:
        rounded = fake_quantize_activation(tensor, torch.tensor(-0.5), torch.tensor(2.0), scheme)
        (gradient,) = torch.autograd.grad(rounded.sum(), tensor)
        cut_below = scheme == "u8s8"  # symmetric, the range goes down to -2
        assert gradient.tolist() == [0.0 if cut_below else 1.0, 1.0, 0.0]
