"""Several processes learn what one learns: the same batches, the same gradients, the same model."""

from __future__ import annotations

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

from zoo.models.making import create_model
from zoo.training.learner import Learner
from zoo.training.options import Training

SCRIPT = Path(__file__).with_name("two_ranks.py")


def start(photos: Path, out: Path, devices: int) -> subprocess.Popen[str]:
    arguments = [f"folder:{photos}", str(out), str(devices)]
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def test_two_ranks_train_the_same_objective_as_one(photos: Path, tmp_path: Path) -> None:
    runs = [start(photos, tmp_path / str(devices), devices) for devices in (1, 2)]
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors[-3000:]
    learned = {}
    for name in ("teacher", "novel_classes", "relaxed_contrastive", "fitnet", "crd", "log_ratio", "binary_triplet"):
        one, two = (load_file(tmp_path / devices / name / "model.safetensors") for devices in ("1", "2"))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        learned[name] = one
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
