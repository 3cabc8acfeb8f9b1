from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import zoo.models.precision
import zoo.teachers.torch_module
import zoo.training.fitting
from zoo import train
from zoo.models.precision import bfloat16_is_fast
from zoo.teachers.torch_module import TorchTeacher


@pytest.mark.parametrize(
    ("instruction_sets", "fast"),
    [(["avx2", "avx512f", "avx512_vnni"], False), (["avx512_bf16"], True), (["amx_bf16"], True), ([], False)],
)
def test_cpus_that_multiply_bfloat16(monkeypatch: pytest.MonkeyPatch, instruction_sets: list[str], fast: bool) -> None:
    monkeypatch.setattr(zoo.models.precision, "machine", lambda: {"instruction_sets": instruction_sets})
    assert bfloat16_is_fast(torch.device("cpu")) is fast
    assert not bfloat16_is_fast(torch.device("mps"))


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_bfloat16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(zoo.teachers.torch_module, "bfloat16_is_fast", lambda device: fast)
    seen = []

    class Watched(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return pixels.flatten(1)[:, :4]

    TorchTeacher(Watched(), precision="auto").embed_views(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2), None
    )  # type: ignore[arg-type]
    assert seen == [fast]


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_in_training(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, fast: bool, expected: str
) -> None:
    monkeypatch.setattr(zoo.training.fitting, "bfloat16_is_fast", lambda device: fast)
    taken = []
    trainer = zoo.training.fitting.lightning.Trainer

    def watched(**options: object) -> object:
        taken.append(options["precision"])
        return trainer(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(zoo.training.fitting.lightning, "Trainer", watched)
    train(
        f"folder:{photos}", tmp_path / "out", "test_resnet", 8, image_size=32, epochs=1, batch_size=8, precision="auto"
    )
    assert taken == [expected]
