"""A checkpoint is whole or is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo.training.checkpoints
import zoo.training.learner


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    io = zoo.training.checkpoints.WholeCheckpoints()
    io.save_checkpoint({"a": torch.ones(2)}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"a": torch.ones(2), "b": lambda: None}, tmp_path / "last.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)["a"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
