"""Embedding an image set: the same rows whatever the batches and workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo.models.embedding
import zoo.teachers.torch_module
import zoo.training.fitting
import zoo.versions
from zoo import train
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError
from zoo.models.embedding import bfloat16_is_fast, embed, worker_count
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.teachers.torch_module import TorchTeacher


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Eleven images of different sizes."""
    random = np.random.default_rng(0)
    sizes = random.integers(20, 60, size=(11, 2))
    sources = [random.integers(0, 256, size=(height, width, 3), dtype=np.uint8) for height, width in sizes]
    return ImageSet([str(i) for i in range(11)], sources)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("test_resnet", 8, image_size=32)


@pytest.fixture(scope="module")
def expected(model: nn.Module, images: ImageSet) -> np.ndarray:
    prepare = Preprocess(preprocessing_of(model))
    model.eval()
    with torch.no_grad():
        rows = [model(prepare(torch.from_numpy(images.pixels(i))[None])) for i in range(len(images))]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 0), (11, 0), (64, None), (3, 2)])
def test_batches_and_workers_change_nothing(
    model: nn.Module, images: ImageSet, expected: np.ndarray, batch_size: int, workers: int | None
) -> None:
    found = embed(model, images, batch_size, workers, progress=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 0.01 * np.abs(expected).max()  # so order would show


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_while_embedding_and_the_former_mode_after(
    model: nn.Module, images: ImageSet, expected: np.ndarray, training: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train(training)
    found = embed(model, images, progress=False)
    assert all(module.training == training for module in model.modules())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_former_mode_returns_after_an_error(images: ImageSet) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            raise RuntimeError("broken")

    broken = Broken()
    with pytest.raises(ModelError, match="broken"):
        embed(broken, images, progress=False)
    assert broken.training


def test_any_module_and_preprocessing(images: ImageSet) -> None:
    class Means(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1:] == (3, 8, 8)
            return x.mean((2, 3)).half()  # half precision comes back as float32

    plain = Preprocessing((8, 8), 1.0, crop_mode="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = embed(Means(), images, preprocessing=plain, progress=False)
    assert found.dtype == np.float32
    exact = np.stack([images.pixels(i).mean((0, 1)) for i in range(len(images))]) / 255
    np.testing.assert_allclose(found, exact, atol=0.02)  # resizing keeps an image's mean, nearly


def test_workers_for_many_batches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, batches, workers in [(4, 19, 0), (4, 20, 3), (1, 20, 1), (64, 20, 8)]:
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 128)  # of the machine, of which a container may have a part
        assert worker_count(batches) == workers
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS and Windows
    for cores, workers in [(4, 3), (None, 1)]:
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert worker_count(20) == workers


@pytest.mark.parametrize(
    ("instruction_sets", "fast"),
    [(["avx2", "avx512f", "avx512_vnni"], False), (["avx512_bf16"], True), (["amx_bf16"], True), ([], False)],
)
def test_cpus_that_multiply_bfloat16(monkeypatch: pytest.MonkeyPatch, instruction_sets: list[str], fast: bool) -> None:
    monkeypatch.setattr(zoo.versions, "machine", lambda: {"instruction_sets": instruction_sets})
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
    assert seen[-1] is fast and not any(seen[:-1])  # before, it was tried on how it takes images


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
        f"folder:{photos}",
        tmp_path / "out",
        arch="test_resnet",
        dim=8,
        image_size=32,
        epochs=1,
        batch_size=8,
        precision="auto",
    )
    assert taken == [expected]
