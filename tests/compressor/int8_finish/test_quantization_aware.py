from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from compressor import distill
from compressor.int8_finish.fake_quantization import fake_quantized
from compressor.int8_finish.quantization_aware import FINISH_KEY, _options, finish_quantized, obstacle_to_finish
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from zoo import ModelError, OptionError, load_data, load_model, measure, save_model
from zoo.models.embedding import embed
from zoo.models.facts import ModelFacts, facts_of
from zoo.training.fitting import Interrupted
from zoo.training.learner import Learner


@pytest.fixture(scope="module")
def student(photos: Path, tiny_teacher: Path, distil_options: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of ``photos``, whose channels are scaled unevenly: the same function in float, another in int8.

    ReLU lets a scale through, so what one convolution multiplies a channel by, the next can divide by (Nagel et al.,
    "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019).
    """
    folder = tmp_path_factory.mktemp("student")
    options = distil_options | {"epochs": 8}
    model = load_model(distill(tiny_teacher, f"folder:{photos}", folder / "s", arch="test_resnet", dim=8, **options))
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixels)
        for first, second in ((0, 3), (3, 6)):
            batchnorm, convolution = model.conv1[first + 1], model.conv1[second]
            scales = torch.logspace(-1, 1, len(batchnorm.weight))
            batchnorm.weight.mul_(scales)
            batchnorm.bias.mul_(scales)
            convolution.weight.div_(scales.view(1, -1, 1, 1))
        torch.testing.assert_close(model(pixels), before, rtol=1e-3, atol=1e-3)
    save_model(model, folder / "uneven")
    return folder / "uneven"


def loss_of(model: nn.Module, teacher: Path, photos: Path, rounding: bool = True) -> float:
    """Return the loss of a model on the training photos, computed as if quantised or in float."""
    images = load_data(f"folder:{photos}").train
    targets = torch.from_numpy(embed(load_model(teacher), images, progress=False))
    with fake_quantized(model, [], "u8s8", per_channel=False) as quantization:
        with quantization.calibrating():
            found = embed(model, images, progress=False)
        if rounding:
            found = embed(model, images, progress=False)
    return float(RelaxedContrastiveLoss()(torch.from_numpy(found), targets))


def test_finish_brings_back_what_rounding_took(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path, distil_options: Any
) -> None:
    data = f"folder:{photos}"
    before = load_model(student)
    folder = finish_quantized(student, tiny_teacher, data, tmp_path / "f", per_channel=False, epochs=6, lr=1e-3)
    after = load_model(folder)
    exact = loss_of(before, tiny_teacher, photos, rounding=False)
    spoilt, mended = (loss_of(model, tiny_teacher, photos) for model in (before, after))
    assert mended - exact < 0.25 * (spoilt - exact), (exact, spoilt, mended)

    # An ordinary folder: timm loads it, with the statistics of BatchNorm as they were.
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert plain.state_dict().keys() == before.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        same = torch.equal(tensor, before.state_dict()[name])
        assert same == ("running" in name or "num_batches" in name), name
    facts, of_student = facts_of(after), facts_of(before)
    assert (facts.metric, facts.loss, facts.teacher) == ("euclidean", "relaxed_contrastive", of_student.teacher)
    finish = facts.options.pop(FINISH_KEY)
    assert facts.options == of_student.options
    # What was not given is the student's own.
    expected = {name: distil_options[name] for name in ("batch_size", "augment", "min_crop", "validation")}
    expected |= {"scheme": "u8s8", "per_channel": False, "epochs": 6, "lr": 1e-3, "views": 2}
    assert {name: finish[name] for name in expected} == expected
    assert facts.measured["validation as int8"]["recall_at_1"] > 0.75
    assert facts.measured["teacher on validation"] == of_student.measured["teacher on validation"]


def test_a_finished_one_is_reused_and_other_options_are_refused(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    data = f"folder:{photos}"
    folder = finish_quantized(student, tiny_teacher, data, tmp_path / "f", epochs=1)
    options = json.loads((folder / "options.json").read_text())
    assert options["lr"] == pytest.approx(1e-3)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    finish_quantized(student, tiny_teacher, data, folder, epochs=1)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(OptionError, match=r"was started with scheme 'u8s8' \(now 's8s8'\)"):
        finish_quantized(student, tiny_teacher, data, folder, epochs=1, scheme="s8s8")
    with pytest.raises(OptionError, match="student_digest"):
        finish_quantized(folder, tiny_teacher, data, folder, epochs=1, lr=1e-3)


def test_the_epoch_is_kept_that_keeps_what_int8_is_judged_by(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([(0.5, 0.9), (0.7, 0.8), (0.7, 0.7), (0.6, 0.95)])
    monkeypatch.setattr(
        Learner, "measure_validation", lambda self: dict(zip(("recall_at_1", "map_at_r"), next(measured), strict=True))
    )
    folder = finish_quantized(student, tiny_teacher, f"folder:{photos}", tmp_path / "f", epochs=4)
    kept = facts_of(load_model(folder)).measured["validation as int8"]
    assert kept == {"epoch": 3, "recall_at_1": 0.7, "map_at_r": 0.7}


def test_another_teacher_is_noticed(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = f"folder:{photos}"
    with caplog.at_level(logging.WARNING):
        finish_quantized(student, tiny_teacher, data, tmp_path / "same", epochs=1)
    assert "distilled from teacher" not in caplog.text
    with caplog.at_level(logging.WARNING):
        finish_quantized(student, student, data, tmp_path / "itself", epochs=1)
    assert "the student was distilled from teacher teacher, not from uneven" in caplog.text


def test_an_interrupted_finish_is_resumed(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(name: str) -> Path:
        data = f"folder:{photos}"
        return finish_quantized(student, tiny_teacher, data, tmp_path / name, epochs=4, validation=0.0, lr=1e-3)

    def stop_after_two(self: Any) -> None:
        original(self)
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    whole, original = finish("whole"), Learner.on_train_epoch_start
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_epoch_start", stop_after_two)
        with pytest.raises(Interrupted):
            finish("parts")
    torch.manual_seed(12345)  # whatever the process did before must not matter
    states = [load_model(folder).state_dict() for folder in (whole, finish("parts"))]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=1e-6, msg=name)


def test_a_model_trained_on_labels_learns_from_itself(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    data = f"folder:{photos}"
    folder = finish_quantized(tiny_teacher, tiny_teacher, data, tmp_path / "f", epochs=2, precision="bf16-mixed")
    facts = facts_of(load_model(folder))
    assert (facts.loss, facts.metric) == ("relaxed_contrastive", "cosine")
    test = load_data(data).test
    scores = [measure(embed(load_model(f), test), test, "cosine").recall_at(1) for f in (tiny_teacher, folder)]
    assert scores[1] >= scores[0] - 0.05


def test_null_options_of_a_teacher_are_the_defaults_of_distillation() -> None:
    facts = ModelFacts(options={"images_per_class": None, "gradient_clip": None, "batch_size": 8, "loss": "proxy_nca"})
    options = _options(facts, {"lr": None, "workers": 0})
    assert (options["images_per_class"], options["batch_size"]) == (2, 8)
    assert options["gradient_clip"] is None  # which distillation may have, too
    assert options["loss"] == "relaxed_contrastive"


def test_labels_without_ids_are_not_read_again_for_divided_data(
    spots: Path, spot_teacher: Path, spot_options: Any, tmp_path: Path
) -> None:
    rows = np.loadtxt(spots / "positions.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    np.save(tmp_path / "rows.npy", rows)
    labelled = {"continuous_labels": tmp_path / "rows.npy"}
    table = f"csv:{spots / 'images.csv'}"
    options = spot_options | labelled | {"epochs": 1, "batch_size": 16}
    student = distill(spot_teacher, table, tmp_path / "s", arch="test_resnet", dim=8, **options)
    divided = load_data(table, **labelled)
    folder = finish_quantized(student, spot_teacher, divided, tmp_path / "f", epochs=1, workers=0)
    assert "ndcg_at_10" in facts_of(load_model(folder)).measured["validation as int8"]


def test_what_cannot_work_is_refused(student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Unknown scheme 'u8'"):
        finish_quantized(student, tiny_teacher, f"folder:{photos}", tmp_path / "f", scheme="u8")
    with pytest.raises(ModelError, match=r"missing.* does not exist"):
        finish_quantized(tmp_path / "missing", tiny_teacher, f"folder:{photos}", tmp_path / "f")


def test_a_loss_that_only_the_folder_names_is_not_imported(
    student: Path, photos: Path, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss as Loss\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for number, named in enumerate(("planted:Loss", "planted.Loss", ["planted:Loss"], {"planted": "Loss"})):
        model = load_model(student)
        facts_of(model).options["loss"] = named
        save_model(model, tmp_path / f"s{number}")
        with pytest.raises(OptionError, match=r"config\.json names the loss .*planted.*pass it as loss"):
            finish_quantized(tmp_path / f"s{number}", tiny_teacher, f"folder:{photos}", tmp_path / "f", epochs=1)
        said = obstacle_to_finish(tmp_path / f"s{number}")
        assert said is not None and "names the loss" in said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "f").exists()
    assert obstacle_to_finish(tmp_path / "s0", "planted:Loss") is None
    folder = finish_quantized(
        tmp_path / "s0", tiny_teacher, f"folder:{photos}", tmp_path / "f", epochs=1, loss="planted:Loss"
    )
    assert (tmp_path / "ran").exists()
    assert facts_of(load_model(folder)).loss == "planted:Loss"
