"""A checkpoint is whole or absent, and reads back unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo.training.checkpoints
import zoo.training.learner
from zoo.errors import ModelError
from zoo.training.checkpoints import DIGEST_KEY, WholeCheckpoints, read_best, write_best


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    io = zoo.training.checkpoints.WholeCheckpoints()
    io.save_checkpoint({"a": torch.ones(2)}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"a": torch.ones(2), "b": lambda: None}, tmp_path / "last.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)["a"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def checkpoint() -> dict[str, object]:
    return {
        "epoch": 1,
        "global_step": 10,
        "best": {"epoch": 1, "recall_at_1": 0.5},
        "history": [],
        "state_dict": {"weight": torch.linspace(0, 1, 200)},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


def test_a_checkpoint_whose_weights_changed_is_refused_with_both_digests(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(), file)
    assert WholeCheckpoints().load_checkpoint(file, weights_only=True).keys() == checkpoint().keys()
    content = bytearray(file.read_bytes())
    place = content.index(torch.linspace(0, 1, 200)[1:].numpy().tobytes())
    content[place + 50] ^= 32
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"last\.ckpt is damaged: its digest is \w{16}, and it says \w{16}"):
        WholeCheckpoints().load_checkpoint(file, weights_only=True)


def test_checkpoints_of_earlier_versions_are_read(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "last.ckpt")
    assert WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    ("key", "value"), [("epoch", "1"), ("best", None), ("best", {"epoch": -1}), ("history", {}), ("state_dict", 5)]
)
def test_values_of_the_wrong_kind_in_a_checkpoint_are_named(key: str, value: object, tmp_path: Path) -> None:
    torch.save(checkpoint() | {key: value}, tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt is not a checkpoint of this project"):
        WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=True)


def test_the_best_weights_are_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    weights = {"b": torch.rand(30), "a": torch.arange(3), "c": torch.rand(2, 3).half()}
    write_best(weights, file)
    read = read_best(file)
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"best\.safetensors is damaged: its digest is \w{16}, and it says \w{16}"):
        read_best(file)
    save_file(weights, tmp_path / "old.safetensors")
    assert DIGEST_KEY not in read_best(tmp_path / "old.safetensors")
