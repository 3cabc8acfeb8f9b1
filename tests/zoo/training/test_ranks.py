"""Several processes learn the same as one: same batches, same gradients, same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compressor.losses import LOSSES as TRANSFER_LOSSES
from zoo.losses import LOSSES
from zoo.models.making import create_model
from zoo.training.learner import Learner
from zoo.training.options import Training

SCRIPT, OF_LOSSES = (Path(__file__).with_name(name) for name in ("two_ranks.py", "losses_of_two_ranks.py"))


def start(script: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(SCRIPT.parents[3]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for(runs: list[subprocess.Popen[str]]) -> None:
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def of_losses(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What two processes found of every loss."""
    out = tmp_path_factory.mktemp("losses")
    wait_for([start(OF_LOSSES, out, rank) for rank in range(2)])
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", [*LOSSES, *TRANSFER_LOSSES])
def test_two_ranks_share_an_uneven_batch_of_every_loss(name: str, of_losses: list[dict[str, torch.Tensor]]) -> None:
    """Value and gradients are those of one process with the whole batch, of 7 images: 4 and 3."""
    whole = {
        key.split()[1]: tensor for key, tensor in of_losses[0].items() if key.startswith(f"{name} ") and "alone" in key
    }
    assert whole["value"].isfinite() and whole["student"].abs().max() > 1e-4
    assert len(whole["student"]) == (7 if name in LOSSES else 14)
    for rank, found in enumerate(of_losses):
        mine = {
            key.split()[1]: tensor for key, tensor in found.items() if key.startswith(f"{name} ") and "alone" not in key
        }
        assert mine.keys() == whole.keys()
        for key, tensor in mine.items():
            expected = whole[key]
            if key.startswith("student") and "." not in key:  # of the images that are this process's, view by view
                expected = expected.unflatten(0, (-1, 7))[:, rank::2].flatten(0, 1)
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_two_ranks_share_an_uneven_number_of_images(of_losses: list[dict[str, torch.Tensor]]) -> None:
    for found in of_losses:
        assert found["embedded"].tolist() == [[number] * 3 for number in range(5)]


def test_two_ranks_train_the_same_objective_as_one(photos: Path, tmp_path: Path) -> None:
    wait_for([start(SCRIPT, f"folder:{photos}", tmp_path / str(devices), devices) for devices in (1, 2)])
    learned = {}
    for name in ("teacher", "novel_classes", "relaxed_contrastive", "fitnet", "crd", "log_ratio", "binary_triplet"):
        one, two = (load_file(tmp_path / devices / name / "model.safetensors") for devices in ("1", "2"))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        learned[name] = one
        validated = [json.loads((tmp_path / devices / name / "validation.json").read_text()) for devices in ("1", "2")]
        assert len(validated[0]) >= 1
        assert validated[1] == [pytest.approx(epoch, abs=1e-6) for epoch in validated[0]]
    # Each embedded its half of the validation images.
    alone, first, second = ((tmp_path / name).read_text().split() for name in ("1.rank0", "2.rank0", "2.rank1"))
    assert set(alone) == {"16"} and set(first) == set(second) == {"8"} and len(first) == len(second) == len(alone)
    # They did learn, by far more than they may differ.
    lightning.seed_everything(0, verbose=False)
    untrained = create_model("test_vit", 8, image_size=32, crop_pct=1.0).state_dict()
    for name in ("teacher", "log_ratio", "binary_triplet"):
        moved = {key: float((learned[name][key] - tensor).abs().max()) for key, tensor in untrained.items()}
        assert moved["blocks.0.attn.qkv.weight"] > 1e-3 and moved["head.weight"] > 1e-3, (name, moved)


@pytest.mark.parametrize(("processes", "kind"), [(1, nn.BatchNorm2d), (2, nn.SyncBatchNorm)])
def test_synchronised_batchnorm_computes_the_same(
    processes: int, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # only there is it synchronised
    torch.manual_seed(0)
    model = create_model("mobilenetv4_conv_small_050", 8, image_size=32).eval()
    rates: dict[str, Any] = {"lr": 1.0, "proxy_lr_factor": 1.0, "weight_decay": 0.0, "schedule": "step"}
    asked = Training.of(rates | {"step_epochs": 1, "step_factor": 1.0, "warmup_epochs": 0, "validate_every": 1})
    learner = Learner(model, nn.Identity(), None, asked)
    images = torch.randn(2, 3, 32, 32)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        learner.trainer = SimpleNamespace(world_size=processes)  # type: ignore[assignment]
        learner.setup("fit")
        torch.testing.assert_close(learner.model(images), expected)
    norms = [module for module in learner.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 20 and all(isinstance(module, kind) for module in norms)
    assert list(learner.model.state_dict()) == names
