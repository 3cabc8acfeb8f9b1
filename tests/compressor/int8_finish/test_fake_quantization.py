"""Rounding in eager mode matches onnxruntime's static quantiser on the exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compressor.int8_finish.fake_quantization import FakeQuantization, fake_quantized
from export.int8.quantization import calibrate, to_int8
from export.int8.schemes import Scheme
from export.onnx.tracing import trace_model
from zoo import ModelError, OptionError, create_model
from zoo.models.int8_speed import FEWEST_TERMS

_ACTIVATIONS = {"u8s8": "uint8", "s8s8": "int8"}


def to_static_int8(
    model: nn.Module, tensors: np.ndarray, path: Path, scheme: str, per_channel: bool, weight_bits: int = 8
) -> Path:
    """Write a network as an int8 ONNX file, without preprocessing and normalisation.

    Args:
        model: takes float32 ``(N, 3, H, W)``, gives ``(N, D)``.
        tensors: float32 ``(N, 3, H, W)``, the model's input for the calibration images; ranges are their min and max.
        path: the file to write.
        scheme: "u8s8" (activations uint8, asymmetric) or "s8s8" (int8, symmetric).
        per_channel: weights have a scale for each output channel, rather than one a layer.
        weight_bits: 8 or 7.
    """
    network = trace_model(model).graphs.network
    ranges = calibrate(network, "minmax", np.split(tensors, len(tensors)))
    asked = Scheme("static", _ACTIVATIONS[scheme], per_channel, "minmax", reduce_range=weight_bits == 7)
    onnx.save(to_int8(network, asked, ranges), path)
    return path


def embed_with(path: Path, tensors: np.ndarray) -> np.ndarray:
    """Embed float32 ``(N, 3, H, W)`` with a file of :func:`to_static_int8`, as ``(N, D)``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = np.array_split(tensors, max(len(tensors) // 64, 1))
    return np.concatenate([session.run(None, {"tensor": batch})[0] for batch in batches])


def uneven(arch: str) -> nn.Module:
    """Return a network whose BatchNorms scale channels very differently, as training on a large set makes them."""
    torch.manual_seed(0)
    model = create_model(arch, 16, pool="avgmax", image_size=32).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.weight.data = torch.exp(torch.empty_like(module.weight).uniform_(-2.5, 1.0))
    return model


class Branching(nn.Module):
    """A convolution whose output a ReLU and an addition read, another's that a ReLU alone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, 4), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.last, self.head = nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(8, 16)

    def forward(self, pixels: Tensor) -> Tensor:
        branched = self.first(pixels)
        embedding: Tensor = self.head((self.last(self.second(self.relu(branched))) + branched).mean((2, 3)))
        return embedding


def images(count: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(coarse, size=32, mode="bicubic")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


@pytest.mark.parametrize(
    ("arch", "scheme", "per_channel", "bits"),
    [
        ("test_resnet", "u8s8", True, 8),
        ("test_efficientnet", "s8s8", False, 8),
        ("test_resnet", "u8s8", True, 7),
        ("branching", "u8s8", True, 8),
    ],
)
def test_agrees_with_the_static_quantiser(arch: str, scheme: str, per_channel: bool, bits: int, tmp_path: Path) -> None:
    model = create_model(Branching(), 16, image_size=32).eval() if arch == "branching" else uneven(arch)
    pixels = images()
    with torch.no_grad():
        exact = model(pixels).numpy()
    file = to_static_int8(model, pixels.numpy(), tmp_path / "int8.onnx", scheme, per_channel, bits)
    found = embed_with(file, pixels.numpy())
    with fake_quantized(model, [pixels], scheme, per_channel, bits) as quantization, torch.no_grad():
        rounded = model(pixels).numpy()
        weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    weights = weights[0 if weights[0][0].numel() >= FEWEST_TERMS else 1 :]
    assert 1 - cosine(rounded, found) < 0.5 * (1 - cosine(exact, found))
    # The same tensors are rounded with the same steps. With s8s8 the file rounds before a ReLU and after it, alike.
    graph = onnx.load(file).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = np.array([float(values[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"])
    lows, highs = (np.array([float(getattr(made, end)) for made in quantization.ranges]) for end in ("low", "high"))
    ours = np.maximum(-lows, highs) / 127 if scheme == "s8s8" else (highs - lows) / 255
    apart = np.abs(np.log(steps[:, None] / ours[None, :]))
    assert apart.min(axis=0).max() < 1e-4 and apart.min(axis=1).max() < 1e-4
    # And the same weights are, which the first layer's, of 27 products, are not.
    kinds = sorted(tensor.shape for tensor in values.values() if tensor.dtype == np.int8 and tensor.ndim > 1)
    assert kinds == sorted(tuple(weight.shape) for weight in weights)
    # To the same steps, as the head shows, which no BatchNorm scales.
    (head,) = (node.input[1] for node in graph.node if node.op_type == "Gemm")
    integers, scale = next(node.input for node in graph.node if node.output[0] == head)[:2]
    stored = values[integers] * values[scale].reshape(-1, 1)
    np.testing.assert_allclose(weights[-1].detach().numpy(), stored, rtol=1e-4, atol=1e-7)


def test_the_network_is_plain_again() -> None:
    model, pixels = uneven("test_efficientnet"), images(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        exact = model(pixels)
        with fake_quantized(model, [pixels]):
            assert not torch.equal(model(pixels), exact)
            assert model.state_dict().keys() != before.keys()
        assert torch.equal(model(pixels), exact)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_ranges_follow_the_batches() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), nn.Linear(2, 2)).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}  # type: ignore[assignment]
    quantization = FakeQuantization(model)
    assert not quantization.calibrated
    with quantization.calibrating(), torch.no_grad():
        model(torch.full((1, 3, 8, 8), 2.0))
        model(torch.full((1, 3, 8, 8), -1.0))
    assert quantization.calibrated
    pixels = quantization.ranges[-1]  # of the input
    assert (float(pixels.low), float(pixels.high)) == (-1.0, 2.0)
    with quantization.observing(0.25), torch.no_grad():
        model(torch.full((1, 3, 8, 8), 6.0))
    assert (float(pixels.low), float(pixels.high)) == (-0.75, 3.0)
    with torch.no_grad():
        model(torch.full((1, 3, 8, 8), 100.0))
    assert (float(pixels.low), float(pixels.high)) == (-0.75, 3.0)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_in_float32(precision: torch.dtype) -> None:
    model, pixels = uneven("test_resnet"), images(8)
    with fake_quantized(model, [pixels]), torch.no_grad():
        exact = model(pixels).numpy()
        with torch.autocast("cpu", dtype=precision):
            half = model(pixels).float().numpy()
            weight = model.get_submodule("conv1.0").weight
    assert weight.dtype == torch.float32
    assert cosine(half, exact) > 0.99


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(OptionError, match="Unknown scheme 'u8u8'; known are u8s8 and s8s8"):
        FakeQuantization(create_model("test_resnet", 4, image_size=32), "u8u8")
    with pytest.raises(OptionError, match="weight_bits is 4; it must be 8, or 7"):
        FakeQuantization(create_model("test_resnet", 4, image_size=32), weight_bits=4)
    with pytest.raises(ModelError, match="repvgg_a0 merges its branches"):
        FakeQuantization(create_model("repvgg_a0", 4, image_size=32))
