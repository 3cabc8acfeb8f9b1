"""Questions to a network, against its own forward pass and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.errors import ModelError, OptionError
from zoo.models.making import create_model
from zoo.models.network import embed_with_maps, normalize_embeddings


def test_normalisation_matches_numpy() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(normalize_embeddings(torch.from_numpy(x)).numpy(), expected, atol=1e-6)
    assert torch.isfinite(normalize_embeddings(torch.zeros(1, 3))).all()


MAPPED = {
    "resnet18": [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
    "mobilenetv4_conv_small": [(32, 32, 32), (32, 16, 16), (64, 8, 8), (96, 4, 4), (960, 2, 2)],
    "mobilenetv3_small_100": [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)],
    "vit_tiny_patch16_224": [(192, 4, 4)] * 12,
    "deit_tiny_distilled_patch16_224": [(192, 4, 4)] * 12,
    "convnext_atto": [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2)],
    "fastvit_t8": [(48, 16, 16), (96, 8, 8), (192, 4, 4), (384, 2, 2)],
    "test_efficientnet": [(16, 32, 32), (24, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)],
}


@pytest.mark.parametrize("arch", MAPPED)
def test_maps_come_with_the_same_embedding(arch: str, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = create_model(arch, 8, pool=None if "it_tiny" in arch else "avgmax", image_size=64)
    for training in (False, True):
        model.train(training)
        torch.manual_seed(1)  # of dropout
        expected = model(images)
        torch.manual_seed(1)
        embeddings, maps = embed_with_maps(model, images)
        torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert [tuple(map_.shape[1:]) for map_ in maps] == MAPPED[arch]
    # The maps lie on the way: all parameters that the embedding trains are trained through this pass too.
    (embeddings.sum() + sum(map_.sum() for map_ in maps)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_module_keeps_its_mode_if_it_fails(training: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)).train(training)  # an image has three channels
    with pytest.raises(ModelError, match=r"Conv2d fails on images of \(32, 32\) pixels"):
        create_model(module, 2, image_size=32)
    assert module.training == module[0].training == training


def test_a_network_without_maps_is_named() -> None:
    with pytest.raises(OptionError, match=r"Linear gives no feature maps .*relaxed_contrastive"):
        embed_with_maps(torch.nn.Linear(3, 2), torch.zeros(1, 3))
