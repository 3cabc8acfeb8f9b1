"""Small data sets, fast enough for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

# The tests are of CPUs, and several devices would have Lightning start pytest again. Set it to test on a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Several workers share the cores: a thread each, before anything that counts them is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights that no earlier test decides."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's real data, beside the repository; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data beside the repository ({SHARED.name}/data)")
    return SHARED


def blob(label: int, index: int, side: int = 40) -> np.ndarray:
    """Return an image whose class decides colour and stripes, and whose index decides noise; uint8 (side, side, 3)."""
    random = np.random.default_rng([label, index])
    colour = np.random.default_rng([label, 999]).uniform(40, 215, size=3)
    rows = np.sin(np.arange(side) * (label % 5 + 1) / 4)[:, None, None]
    return np.clip(colour + 35 * rows + random.normal(0, 6, size=(side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 classes with 8 images each, easy to tell apart."""
    root = tmp_path_factory.mktemp("photos")
    for label in range(12):
        folder = root / f"class{label:02}"
        folder.mkdir()
        for index in range(8):
            Image.fromarray(blob(label, index)).save(folder / f"{index}.png")
    return root


def spot(x: float, y: float, index: int, side: int = 32) -> np.ndarray:
    """Return a bright spot at (x, y) in [0, 1] on noise that the index decides; uint8 (side, side, 3)."""
    random = np.random.default_rng([index, 5])
    across = np.arange(side) / (side - 1)
    glow = np.exp(-((across[None, :] - x) ** 2 + (across[:, None] - y) ** 2) / 0.02)[:, :, None]
    return np.clip(40 + 190 * glow + random.normal(0, 8, size=(side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 160 images of a spot without classes, ``images.csv``; where the spot is, ``positions.csv``."""
    root = tmp_path_factory.mktemp("spots")
    places = np.random.default_rng(0).uniform(0.1, 0.9, size=(160, 2))
    table, labels = ["path,split"], ["path,x,y"]
    for index, (x, y) in enumerate(places.tolist()):
        Image.fromarray(spot(x, y, index)).save(root / f"{index}.png")
        table.append(f"{index}.png,{'train' if index < 100 else 'test'}")
        labels.append(f"{index}.png,{x},{y}")
    (root / "images.csv").write_text("\n".join(table))
    (root / "positions.csv").write_text("\n".join(labels))
    return root


@pytest.fixture(scope="session")
def spot_options() -> dict[str, object]:
    """Options to train on ``spots`` for some seconds."""
    return {
        "image_size": 32,
        "crop_pct": 1.0,
        "batch_size": 24,
        "augment": "none",
        "lr": 2e-3,
        "workers": 0,
    }


@pytest.fixture(scope="session")
def spot_teacher(spots: Path, spot_options: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher trained on the positions of ``spots``."""
    from zoo import train

    return train(
        f"csv:{spots / 'images.csv'}",
        tmp_path_factory.mktemp("spot-teacher") / "teacher",
        arch="test_resnet",
        dim=16,
        loss="log_ratio",
        continuous_labels=spots / "positions.csv",
        epochs=12,
        **spot_options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def tiny_teacher(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher trained for some seconds on ``photos``."""
    from zoo import train

    return train(
        f"folder:{photos}",
        tmp_path_factory.mktemp("teacher") / "teacher",
        arch="test_resnet",
        dim=32,
        image_size=32,
        crop_pct=1.0,
        epochs=3,
        batch_size=16,
        images_per_class=4,
        augment="photo",
        min_crop=0.5,
        lr=2e-3,
        proxy_lr_factor=20,
        workers=0,
        validation=0.34,
    )


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """A context in which modules, named without dots, are not installed."""

    @contextmanager
    def hidden(*modules: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for module in modules:
                patch.setitem(sys.modules, module, None)  # what import and find_spec take for "not found"
            yield

    return hidden


@pytest.fixture
def interrupted_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A context in which the training begun in it is interrupted at the start of an epoch, counted from 0."""
    from zoo.training.fitting import Interrupted
    from zoo.training.learner import Learner

    original = Learner.on_train_epoch_start

    @contextmanager
    def interrupted(epoch: int) -> Iterator[None]:
        def stop(self: Learner) -> None:
            original(self)
            if self.current_epoch == epoch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(Interrupted, match="again"):
            patch.setattr(Learner, "on_train_epoch_start", stop)
            yield

    return interrupted


@pytest.fixture(scope="session")
def distil_options() -> dict[str, object]:
    """Options for a distillation of some seconds."""
    return {
        "image_size": 32,
        "crop_pct": 1.0,
        "epochs": 2,
        "batch_size": 16,
        "augment": "photo",
        "min_crop": 0.5,
        "lr": 2e-3,
        "workers": 0,
        "validation": 0.34,
    }


@pytest.fixture(scope="session")
def tiny_onnx() -> Callable[..., Path]:
    """Write an ONNX file as ``export`` would, without a network: an embedding is the mean colour times a matrix.

    The function takes the path, the seed of the matrix, and entries of the metadata in place of the usual ones; those
    that are None are left out.
    """
    return _write_tiny_onnx


def _write_tiny_onnx(path: Path, seed: int = 0, digest: bool = True, **entries: str | None) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from zoo.formats.onnx_content import DIGEST_KEY, content_digest

    weight = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    said: dict[str, str | None] = {
        "schema": "1",
        "architecture": "tiny",
        "dim": "8",
        "parameters": "24",
        "metric": "euclidean",
        "precision": "fp32",
        "preprocessing": '{"input_size": [3, 32, 32], "crop_pct": 1.0, "inside": true}',
    }
    helper.set_model_props(proto, {key: value for key, value in (said | entries).items() if value is not None})
    onnx.save(proto, path)
    if digest:
        proto.metadata_props.add(key=DIGEST_KEY, value=content_digest(path))
        onnx.save(proto, path)
    return path
