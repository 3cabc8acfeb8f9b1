"""Stored embeddings of views: found again, and never those of another teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor import distill
from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.models.folder import load_model
from zoo.teachers.base import Teacher
from zoo.teachers.cache import CachedTeacher, read_entry, write_entry
from zoo.teachers.opening import open_teacher
from zoo.teachers.ready import ArrayTeacher
from zoo.teachers.torch_module import TorchTeacher

NO_IMAGES = ImageSet([], [])


class Counting(nn.Module):
    """Averages each channel, times a weight; counts how often it is asked."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += len(pixels) == 4  # views; a foreign module is tried on other images before
        return self.weight * pixels.mean(dim=(2, 3))


def views(seed: int) -> Tensor:
    return torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def shown(teacher: CachedTeacher, seed: int) -> Tensor:
    return teacher.embed_views(views(seed), torch.arange(4), NO_IMAGES)


def test_a_batch_is_embedded_once(tmp_path: Path) -> None:
    module = Counting()
    plain = TorchTeacher(module).embed_views(views(0), torch.arange(4), NO_IMAGES)
    for _ in range(2):  # the second begins with what the first left
        cached = CachedTeacher(TorchTeacher(module), tmp_path)
        assert torch.equal(shown(cached, 0), plain)
    assert module.calls == 2  # plain and once
    assert not torch.equal(shown(cached, 1), plain)
    assert module.calls == 3


def test_another_teacher_or_precision_finds_nothing(tmp_path: Path) -> None:
    one, other = Counting(), Counting(2.0)
    first = shown(CachedTeacher(TorchTeacher(one), tmp_path), 0)
    torch.testing.assert_close(shown(CachedTeacher(TorchTeacher(other), tmp_path), 0), 2 * first)
    shown(CachedTeacher(TorchTeacher(one, precision="bf16"), tmp_path), 0)
    assert (one.calls, other.calls) == (2, 1)


def test_a_precision_chosen_for_the_device_is_kept_as_what_it_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Counting()
    for fast, precision, calls in ((False, "auto", 1), (False, "fp32", 1), (True, "auto", 2), (True, "bf16", 2)):
        monkeypatch.setattr("zoo.teachers.torch_module.bfloat16_is_fast", lambda device, fast=fast: fast)
        shown(CachedTeacher(TorchTeacher(module, precision=precision), tmp_path), 0)
        assert module.calls == calls, precision


def test_it_is_the_teacher_in_all_else() -> None:
    teacher = TorchTeacher(Counting(), name="mine", metric="euclidean", precision="bf16")
    teacher.runtime, teacher.source, teacher.ships = "torch", "hf:mine", True
    cached = CachedTeacher(teacher, "nowhere")
    facts = get_type_hints(Teacher)
    assert {"name", "runtime", "ships"} <= facts.keys()
    for fact in facts:
        assert getattr(cached, fact) == getattr(teacher, fact)
    assert cached.precision_on(torch.device("cpu")) == teacher.precision_on(torch.device("cpu")) != ""
    assert cached.parameters() == 1
    with pytest.raises(OptionError, match="feature maps"):
        CachedTeacher(ArrayTeacher({"a": np.ones(3)}), "nowhere").embed_views_with_maps(
            views(0), torch.arange(4), NO_IMAGES
        )


def test_a_broken_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = Counting()
    cached = CachedTeacher(TorchTeacher(module), tmp_path)
    before = shown(cached, 0)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:-3])
    assert torch.equal(shown(cached, 0), before)
    assert module.calls == 2 and str(kept) in caplog.text
    assert torch.equal(shown(cached, 0), before) and module.calls == 2


@pytest.mark.parametrize("place", [-1, -70, 130, 140, 20])  # of the digest, its mark, the numbers, the header
def test_a_damaged_file_is_told_and_made_anew(place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = Counting()
    cached = CachedTeacher(TorchTeacher(module), tmp_path)
    before = shown(cached, 0)
    (kept,) = tmp_path.rglob("*.npy")
    content = bytearray(kept.read_bytes())
    content[place] ^= 2
    kept.write_bytes(content)
    assert torch.equal(shown(cached, 0), before) and module.calls == 2
    assert str(kept) in caplog.text and (place < 100 or "its digest is" in caplog.text)


def test_entries_of_earlier_versions_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.save(tmp_path / "old.npy", values)
    np.testing.assert_array_equal(read_entry(tmp_path / "old.npy", 4), values)
    with pytest.raises(ValueError, match="5 embeddings belong"):
        read_entry(tmp_path / "old.npy", 5)
    write_entry(values, tmp_path / "new.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), values)  # plain numpy reads it, too
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1000000000000000000), }"
    (tmp_path / "bomb.npy").write_bytes(header.ljust(127) + b"\n")
    with pytest.raises(ValueError, match="where 4 embeddings belong"):
        read_entry(tmp_path / "bomb.npy", 4)


def test_ready_embeddings_are_not_kept(tmp_path: Path) -> None:
    assert isinstance(open_teacher({"a": np.ones(3)}, cache=tmp_path), ArrayTeacher)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="file is a file"):
        open_teacher(Counting(), cache=tmp_path / "file")


def test_a_second_student_learns_as_without(
    photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"folder:{photos}"
    plain = distill(tiny_teacher, data, tmp_path / "plain", arch="test_resnet", dim=8, **distil_options)
    cache = tmp_path / "cache"
    distill(
        tiny_teacher, data, tmp_path / "one", arch="test_efficientnet", dim=4, teacher_cache=cache, **distil_options
    )

    def never(*_: Any) -> Tensor:
        raise AssertionError("the teacher was run")

    monkeypatch.setattr(TorchTeacher, "embed_views", never)
    kept = distill(
        tiny_teacher, data, tmp_path / "kept", arch="test_resnet", dim=8, teacher_cache=cache, **distil_options
    )
    expected = load_model(plain).state_dict()
    for name, value in load_model(kept).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
