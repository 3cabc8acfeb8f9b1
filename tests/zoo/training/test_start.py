"""Pretrained networks are measured before training, start with a fitted head, and never end up worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from zoo import ModelError, load_data, load_model, measure, train
from zoo.losses.proxy_anchor import ProxyAnchorLoss
from zoo.models.embedding import embed_pooled
from zoo.models.facts import facts_of
from zoo.models.making import create_model
from zoo.retrieval.projection import classifier_directions, discriminant_directions, principal_directions
from zoo.training.start import begin_proxies

SMALL: dict[str, Any] = {"image_size": 32, "crop_pct": 1.0, "workers": 0, "batch_size": 16, "dim": 6}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 classes with 8 images each that no network finds easy: faint stripes under noise and colour."""
    root = tmp_path_factory.mktemp("hard")
    for label in range(16):
        (root / f"class{label:02}").mkdir()
        angle, width = np.pi * (label % 4) / 4, 3 + label // 4
        for index in range(8):
            random = np.random.default_rng([label, index])
            rows, columns = np.mgrid[:32, :32]
            phase = (rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / width + random.uniform(0, 6)
            pixels = random.uniform(80, 170, 3) + 35 * np.sin(phase)[:, :, None] + random.normal(0, 30, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"class{label:02}" / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a backbone's weights, to stand for pretrained ones."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("pretrained") / "weights.safetensors"
    save_file(create_model("test_resnet", 6).state_dict(), file)
    return file


def kept(folder: Path) -> dict[str, Any]:
    """Return what a model folder says was measured on the validation classes."""
    measured: dict[str, Any] = facts_of(load_model(folder)).measured["validation"]
    return measured


def test_harmful_training_keeps_the_network_as_it_comes(
    photos: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a rate that ruins the network, epoch 0 is what is saved: exactly, and said to be."""
    with caplog.at_level("INFO"):
        folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", pretrained=weights, epochs=2, lr=0.3, **SMALL)
    found = kept(folder)
    assert found["epoch"] == 0
    begun = create_model("test_resnet", 6, weights, None, 32, 1.0)
    saved = load_model(folder)
    body = {name: weight for name, weight in begun.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(saved.state_dict()[name], weight) for name, weight in body.items())
    heads = found["start"]["measured"]
    assert found["map_at_r"] == heads[found["start"]["head"]]["map_at_r"]
    assert "none of 2 epochs was better" in caplog.text
    history = json.loads((folder / "validation.json").read_text())
    assert [line["epoch"] for line in history] == [0, 1, 2]


def test_a_network_kept_as_it_comes_has_its_head_fitted_to_all_that_is_not_tested(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    """Unlabelled, so that principal directions are all there is to choose: those of training and validation images."""
    folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", pretrained=weights, epochs=1, lr=0.3, **SMALL)
    assert kept(folder)["epoch"] == 0
    splits = load_data(f"folder:{photos}")
    begun = create_model("test_resnet", 6, weights, None, 32, 1.0)
    features = np.concatenate([embed_pooled(begun, images) for images in (splits.train, splits.validation)])
    labels = np.concatenate([splits.train.labels, splits.validation.labels])  # type: ignore[arg-type]
    name = kept(folder)["start"]["head"]
    if name.startswith("whitened"):
        expected = discriminant_directions(features, labels, 6, float(name.split()[-1]))
    elif "classifier" in name:
        expected = classifier_directions(features, load_file(weights)["fc.weight"].numpy(), 6)
    else:
        expected = principal_directions(features, 6)
    assert np.allclose(load_model(folder).state_dict()["fc.weight"].numpy(), expected, atol=1e-3)


def test_head_is_the_best_of_those_that_were_fitted(photos: Path, weights: Path, tmp_path: Path) -> None:
    """What is on record of each head is what the fitted directions retrieve, and the best of them is in the network."""
    folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", pretrained=weights, epochs=1, lr=0.3, **SMALL)
    start = kept(folder)["start"]
    splits = load_data(f"folder:{photos}")
    begun = create_model("test_resnet", 6, weights, None, 32, 1.0)
    features, seen = embed_pooled(begun, splits.train), embed_pooled(begun, splits.validation)
    labels = splits.train.labels
    assert labels is not None

    def map_at_r(vectors: np.ndarray) -> float:
        return float(measure(vectors, splits.validation).average_precision.mean())

    expected = {"as it comes": map_at_r(seen), "PCA to 6": map_at_r(seen @ principal_directions(features, 6).T)}
    classifier = load_file(weights)["fc.weight"].numpy()
    directions = classifier_directions(features, classifier, 6)
    expected["PCA by the classifier to 6"] = map_at_r(seen @ directions.T)
    for shrinkage in (0.9, 0.7, 0.5, 0.3, 0.1):
        directions = discriminant_directions(features, labels, 6, shrinkage)
        expected[f"whitened to 6, shrinkage {shrinkage:g}"] = map_at_r(seen @ directions.T)
    assert {name: each["map_at_r"] for name, each in start["measured"].items()} == pytest.approx(expected, abs=1e-4)
    heads = {name: value for name, value in expected.items() if name != "as it comes"}
    assert heads[start["head"]] == pytest.approx(max(heads.values()), abs=1e-4)


class ByLength(ProxyAnchorLoss):
    """A loss whose model is compared by Euclidean distance."""

    metric = "euclidean"


def test_heads_are_fitted_and_judged_by_the_metric_that_the_model_is_compared_by(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    """What was measured of every head, and of what was saved, is by Euclidean distance; by cosine it is otherwise."""
    options = SMALL | {"pretrained": weights, "epochs": 1, "lr": 0.3, "loss": f"{__name__}:ByLength"}
    folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", **options)
    splits = load_data(f"folder:{photos}")
    begun = create_model("test_resnet", 6, weights, None, 32, 1.0)
    features, seen = embed_pooled(begun, splits.train), embed_pooled(begun, splits.validation)

    def map_at_r(vectors: np.ndarray, metric: str) -> float:
        return float(measure(vectors, splits.validation, metric).average_precision.mean())

    start = kept(folder)["start"]
    found = {name: each["map_at_r"] for name, each in start["measured"].items()}
    plain = seen @ principal_directions(features, 6, "euclidean").T
    whitened = seen @ discriminant_directions(features, splits.train.labels, 6, 0.5, "euclidean").T  # type: ignore[arg-type]
    assert found["as it comes"] == pytest.approx(map_at_r(seen, "cosine"), abs=1e-4)
    assert found["PCA to 6"] == pytest.approx(map_at_r(plain, "euclidean"), abs=1e-4)
    assert found["whitened to 6, shrinkage 0.5"] == pytest.approx(map_at_r(whitened, "euclidean"), abs=1e-4)
    assert map_at_r(whitened, "euclidean") != pytest.approx(map_at_r(whitened, "cosine"), abs=1e-3)
    assert start["head"] == max((name for name in found if name != "as it comes"), key=lambda name: found[name])
    history = json.loads((folder / "validation.json").read_text())
    assert history[0]["map_at_r"] == pytest.approx(found[start["head"]], abs=1e-6)
    assert facts_of(load_model(folder)).metric == "euclidean"


def test_average_is_the_best_share_of_trained_and_first_weights(photos: Path, weights: Path, tmp_path: Path) -> None:
    """A backbone that began elsewhere learns; what is saved lies on the line between, where validation is best."""
    options = SMALL | {"pretrained": weights, "epochs": 2, "lr": 3e-3, "dim": 3}
    alone = train(f"folder:{photos}", tmp_path / "alone", arch="test_resnet", average_start=False, **options)
    averaged = train(f"folder:{photos}", tmp_path / "averaged", arch="test_resnet", **options)
    if kept(alone)["epoch"] == 0:
        assert "average" not in kept(averaged)
        return
    found = kept(averaged)["average"]
    assert set(found["measured"]) == {"0.25", "0.5", "0.75", "1"}
    assert found["measured"][f"{found['share']:g}"] == max(found["measured"].values())
    assert found["measured"]["1"] == pytest.approx(kept(alone)["map_at_r"], abs=1e-6)
    begun = create_model("test_resnet", 3, weights, None, 32, 1.0).state_dict()
    name = next(name for name in begun if name.endswith("conv1.weight"))
    expected = torch.lerp(begun[name], load_model(alone).state_dict()[name], found["share"])
    assert torch.allclose(load_model(averaged).state_dict()[name], expected, atol=1e-6)


def test_frozen_backbone_stays_and_the_head_learns(photos: Path, weights: Path, tmp_path: Path) -> None:
    options = SMALL | {"pretrained": weights, "epochs": 3, "lr": 1e-2, "average_start": False}
    folder = train(f"folder:{photos}", tmp_path, arch="test_resnet", freeze="backbone", validation=0, **options)
    begun, saved = create_model("test_resnet", 6, weights, None, 32, 1.0).state_dict(), load_model(folder).state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in begun.items() if not name.startswith("fc."))
    splits = load_data(f"folder:{photos}", validation=0)
    first = principal_directions(embed_pooled(create_model("test_resnet", 6, weights, None, 32, 1.0), splits.train), 6)
    assert not np.allclose(saved["fc.weight"].numpy(), first, atol=1e-3)


def test_strong_pull_towards_the_start_keeps_the_backbone(photos: Path, weights: Path, tmp_path: Path) -> None:
    options = SMALL | {"pretrained": weights, "epochs": 4, "lr": 1e-2, "average_start": False, "validation": 0}
    begun = create_model("test_resnet", 6, weights, None, 32, 1.0).state_dict()
    moved = []
    for strength in (0.0, 95.0):
        folder = train(
            f"folder:{photos}", tmp_path / f"{strength}", arch="test_resnet", towards_start=strength, **options
        )
        saved = load_model(folder).state_dict()
        moved.append(float((saved["layer1.0.conv1.weight"] - begun["layer1.0.conv1.weight"]).norm()))
    assert 0 < moved[1] < 0.4 * moved[0]


def test_proxies_begin_where_the_classes_are() -> None:
    loss = ProxyAnchorLoss(num_classes=2, dim=2)
    before = loss.proxies.detach().norm(dim=1)
    begin_proxies(loss, np.array([[2.0, 0], [4.0, 0], [0, -3.0]]), np.array([7, 7, 9]))
    assert torch.allclose(nn.functional.normalize(loss.proxies, dim=1), torch.tensor([[1.0, 0], [0, -1.0]]), atol=1e-6)
    assert torch.allclose(loss.proxies.norm(dim=1), before, atol=1e-6)


def test_a_run_whose_best_is_the_network_as_it_comes_goes_on(
    photos: Path, weights: Path, tmp_path: Path, interrupted_in: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Its checkpoint says that epoch 0 is the best so far."""
    options = SMALL | {"pretrained": weights, "epochs": 2, "lr": 0.3}
    with interrupted_in(1):
        train(f"folder:{photos}", tmp_path / "stopped", arch="test_resnet", **options)
    history = json.loads((tmp_path / "stopped" / "validation.json").read_text())
    assert history[1]["map_at_r"] < history[0]["map_at_r"]
    again = train(f"folder:{photos}", tmp_path / "stopped", arch="test_resnet", **options)
    assert kept(again) == kept(train(f"folder:{photos}", tmp_path / "whole", arch="test_resnet", **options))


def test_a_broken_start_is_told(photos: Path, weights: Path, tmp_path: Path, interrupted_in: Any) -> None:
    options = SMALL | {"pretrained": weights, "epochs": 2}
    with interrupted_in(1):
        train(f"folder:{photos}", tmp_path, arch="test_resnet", **options)
    (tmp_path / "checkpoints" / "start.json").write_text('{"head": 3}')
    with pytest.raises(ModelError, match=r"start\.json cannot be read"):
        train(f"folder:{photos}", tmp_path, arch="test_resnet", **options)


def test_an_interrupted_start_goes_on(photos: Path, weights: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped in its first epoch, a run begins with the head and the measures of before, and ends as a whole one."""
    options = SMALL | {"pretrained": weights, "epochs": 1}
    whole = train(f"folder:{photos}", tmp_path / "whole", arch="test_resnet", **options)
    from zoo.training import learner

    def stop(self: Any, batch: Any, batch_idx: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(learner.Learner, "on_train_batch_start", stop)
        train(f"folder:{photos}", tmp_path / "stopped", arch="test_resnet", **options)
    assert (tmp_path / "stopped" / "checkpoints" / "start.json").is_file()
    again = train(f"folder:{photos}", tmp_path / "stopped", arch="test_resnet", **options)
    assert kept(again) == kept(whole)
    assert not (again / "checkpoints").exists()  # what training began with, too, is removed
    one, other = load_model(again).state_dict(), load_model(whole).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
