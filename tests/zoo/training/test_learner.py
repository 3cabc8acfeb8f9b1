"""What is optimised, at which rates, and in which memory layout."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import zoo.training.checkpoints
import zoo.training.learner
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Normalize
from zoo.training.options import Training


@pytest.mark.parametrize("factor", [None, 5.0])
def test_proxies_and_other_parameters_of_a_loss_have_rates_of_their_own(factor: float | None) -> None:
    loss, model = nn.Module(), create_model("test_resnet", 8, image_size=32)
    loss.inner = nn.Module()
    loss.inner.proxies = nn.Parameter(torch.zeros(2, 3))
    loss.regressor = nn.Linear(3, 4)
    if factor is not None:
        loss.loss_lr_factor = factor  # type: ignore[assignment]
    groups = learner_of(model, loss).configure_optimizers()["optimizer"].param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rate_of[id(parameter)] for parameter in model.parameters()} == {0.1}
    assert rate_of[id(loss.inner.proxies)] == pytest.approx(3.0)
    assert {rate_of[id(parameter)] for parameter in loss.regressor.parameters()} == {0.1 * (factor or 1)}


def learner_of(
    model: nn.Module, loss: nn.Module | None = None, steps: int = 9, epochs: int = 1, **options: Any
) -> zoo.training.learner.Learner:
    """Return a learner that only makes its optimizer."""
    given: dict[str, Any] = {"lr": 0.1, "proxy_lr_factor": 30.0, "weight_decay": 0.0, "schedule": "step"}
    given |= {"step_epochs": 9, "step_factor": 1.0, "warmup_epochs": 0, "validate_every": 1, "seed": 0}
    learner = zoo.training.learner.Learner(model, loss or nn.Module(), None, Training.of(given | options))
    learner.trainer = SimpleNamespace(  # type: ignore[assignment]
        estimated_stepping_batches=steps, max_epochs=epochs, precision="32-true", world_size=1
    )
    return learner


def test_gradients_of_strided_1x1_convolutions_of_the_pixels() -> None:
    # In the layout that all others train in, this crashed, or its gradients were wrong, on CPUs.
    model = create_model("repvgg_a0", 8, image_size=32)
    views = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = deepcopy(model)
    plain(Normalize(preprocessing_of(model))(views)).square().sum().backward()
    learner_of(model).embed_views(views).square().sum().backward()
    for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        largest = expected.grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=1e-3 * largest + 1e-6, msg=name)
    assert learner_of(create_model("test_resnet", 8, image_size=32)).layout == torch.channels_last


def test_their_gradients_in_a_compiled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler has convolutions on CPUs channels last by itself, and training crashed.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = create_model("test_resnet", 8, image_size=32)
    model.conv1 = nn.Conv2d(3, 48, 1, 2, bias=False)
    model.forward = lambda pixels: model.conv1(pixels).relu().mean((2, 3))  # the whole network takes a minute
    views = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.forward(Normalize(preprocessing_of(model))(views)).square().sum().backward()
    expected = model.conv1.weight.grad.clone()
    model.zero_grad()
    try:
        learner_of(model, compile=True).embed_views(views).square().sum().backward()
    except BackendCompilerFailed as error:
        pytest.skip(f"nothing can be compiled on this machine: {error}")
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(model.conv1.weight.grad, expected)


def test_biases_norms_and_position_embeddings_do_not_decay() -> None:
    model = create_model("test_vit", 8, image_size=32)
    groups = learner_of(model, weight_decay=0.1).configure_optimizers()["optimizer"].param_groups
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert len(decay_of) == len(named)
    for name, decay in (("blocks.0.attn.qkv.weight", 0.1), ("patch_embed.proj.weight", 0.1), ("head.weight", 0.1)):
        assert decay_of[id(named[name])] == decay
    for name in ("blocks.0.attn.qkv.bias", "blocks.0.norm1.weight", "pos_embed", "cls_token"):
        assert decay_of[id(named[name])] == 0


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_each_weight_is_pulled_to_its_start_at_its_own_rate(decay: float) -> None:
    model = create_model("test_resnet", 8, image_size=32)
    learner = learner_of(model, layer_decay=decay, towards_start=2.0)
    optimizer = learner.configure_optimizers()["optimizer"]
    learner.trainer.optimizers = [optimizer]
    begun = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    learner.draw_to(begun)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
    learner.on_train_batch_end({"loss": torch.zeros(())}, None, 0)
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    named = dict(model.named_parameters())
    assert (rate_of[id(named["conv1.0.weight"])] < rate_of[id(named["layer4.0.conv1.weight"])]) == (decay < 1)
    for name, weight in named.items():
        kept = 1.0 if name.startswith("fc.") else 1 - 2.0 * rate_of[id(weight)]  # the head has no start
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, kept))


def test_the_cosine_rises_over_a_twentieth_of_the_steps_and_falls_to_zero() -> None:
    learner = learner_of(create_model("test_resnet", 8, image_size=32), steps=100, epochs=4, schedule="cosine")
    scheduler = learner.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rates[5 + 95 // 2] == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 47 / 95)))
    assert rates[100] == pytest.approx(0)
    assert (np.diff(rates[5:]) < 0).all()
