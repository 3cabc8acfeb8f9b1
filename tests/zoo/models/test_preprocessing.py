"""From pixels to a network's input: against Pillow, timm's own transform, and hand-worked values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torchvision.transforms import v2

from export.onnx.tracing import smooth_images
from zoo.errors import ModelError, OptionError
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Normalize, Preprocess, Preprocessing, half, rounded_quotient
from zoo.teachers.opening import open_teacher
from zoo.teachers.torch_module import TorchTeacher
from zoo.training.students import with_folder

SIZES = [(160, 160), (97, 200), (211, 80), (20, 33), (300, 131)]  # height, width
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pillow and torchvision round to bytes, once along each side; we do not round.
GREY_LEVELS = 1.5


def picture(height: int, width: int) -> np.ndarray:
    """Return structure at several scales, uint8 (H, W, 3)."""
    return np.array(Image.fromarray(smooth_images(1)[0]).resize((width, height), Image.Resampling.BICUBIC))


def prepared(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return the network's input, in grey levels 0..255, (H, W, 3)."""
    given = Preprocess(preprocessing)(torch.from_numpy(image)[None])
    assert given.dtype == torch.float32
    assert given.shape == (1, 3, *preprocessing.input_size)
    mean, std = (np.array(values) for values in (preprocessing.mean, preprocessing.std))
    return 255 * (given[0].permute(1, 2, 0).numpy() * std + mean)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_pillow(size: tuple[int, int], crop_mode: str, interpolation: str) -> None:
    image = picture(*size)
    contract = Preprocessing((48, 48), 0.75, interpolation, crop_mode)
    height, width = size
    if crop_mode == "squash":
        resized = (64, 64)
    else:
        resized = (64, 64 * width // height) if height < width else (64 * height // width, 64)
    expected = np.asarray(Image.fromarray(image).resize(resized[::-1], FILTERS[interpolation]), dtype=np.float64)
    top, left = round((resized[0] - 48) / 2), round((resized[1] - 48) / 2)
    expected = expected[top : top + 48, left : left + 48]
    np.testing.assert_allclose(prepared(image, contract), expected, rtol=0, atol=GREY_LEVELS)


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (250, 250), (60, 90)])
@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 0.9, 0.95, 0.965, 1.0])
def test_equals_timms_own_transform(crop_pct: float, size: tuple[int, int]) -> None:
    image = picture(*size)
    contract = Preprocessing((112, 112), crop_pct, "bilinear")
    transform = timm.data.create_transform(
        (3, 112, 112), crop_pct=crop_pct, interpolation="bilinear", mean=contract.mean, std=contract.std
    )
    expected = transform(Image.fromarray(image)).permute(1, 2, 0).numpy()
    expected = 255 * (expected * np.array(contract.std) + np.array(contract.mean))
    np.testing.assert_allclose(prepared(image, contract), expected, rtol=0, atol=GREY_LEVELS)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", SIZES)
def test_the_resize_of_training_agrees(size: tuple[int, int], interpolation: str) -> None:
    image = picture(*size)
    mode = v2.InterpolationMode(interpolation)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    expected = v2.functional.resize(pixels, [48, 56], mode, antialias=True).permute(1, 2, 0).numpy()
    found = prepared(image, Preprocessing((48, 56), 1.0, interpolation, "squash"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=GREY_LEVELS)


@pytest.mark.parametrize(
    ("size", "crop_pct", "rows", "columns"),
    [
        ((8, 8), 1.0, (0, 8), (0, 8)),
        ((8, 20), 1.0, (0, 8), (6, 14)),  # landscape: 12 over, 6 on each side
        ((21, 8), 1.0, (6, 14), (0, 8)),  # portrait: 13 over, half is 6.5, the even number is 6
        ((8, 11), 1.0, (0, 8), (2, 10)),  # 3 over, half is 1.5, the even number is 2
        ((16, 16), 0.5, (4, 12), (4, 12)),  # all of the image is what the crop is taken from
        ((16, 26), 0.5, (4, 12), (9, 17)),
        ((10, 10), 0.75, (1, 9), (1, 9)),  # 8 / 0.75 is 10.67, rounded down
    ],
)
def test_crops_worked_by_hand(
    size: tuple[int, int], crop_pct: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    # Images whose resize changes nothing, so that the crop shows the pixels as they were.
    image = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    found = prepared(image, Preprocessing((8, 8), crop_pct))
    np.testing.assert_allclose(found, image[slice(*rows), slice(*columns)], rtol=0, atol=1e-3)


def test_images_smaller_than_the_target_grow() -> None:
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, :4] = 200
    found = prepared(image, Preprocessing((16, 16), 1.0))  # to 16 x 32, then the middle: one edge at its centre
    np.testing.assert_allclose(found[:, :6], 200, atol=1e-3)
    np.testing.assert_allclose(found[:, 10:], 0, atol=1e-3)
    np.testing.assert_allclose(found[:, 6:10, 0], [[175, 125, 75, 25]] * 16, atol=1e-3)  # 1/8, 3/8, 5/8, 7/8 across


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (7, 9)])
def test_no_shape_is_too_odd(height: int, width: int) -> None:
    image = np.full((height, width, 3), (10, 100, 250), dtype=np.uint8)
    for crop_mode in ("center", "squash"):
        for interpolation in FILTERS:
            found = prepared(image, Preprocessing((16, 24), 0.9, interpolation, crop_mode))
            np.testing.assert_allclose(found, np.broadcast_to([10, 100, 250], (16, 24, 3)), atol=0.01)


def test_bicubic_stays_within_bytes() -> None:
    image = np.zeros((9, 9, 3), dtype=np.uint8)
    image[:, 4:] = 255
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
    found = Preprocess(Preprocessing((40, 40), 1.0, "bicubic")).resize(pixels)
    assert (found.min(), found.max()) == (0, 255)


def test_a_batch_is_prepared_as_its_images_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(3, 30, 50, 3), dtype=np.uint8)
    prepare = Preprocess(Preprocessing((16, 16)))
    together = prepare(torch.from_numpy(images))
    apart = torch.cat([prepare(torch.from_numpy(image)[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_normalisation_by_hand() -> None:
    contract = Preprocessing(mean=(0.0, 0.5, 1.0), std=(1.0, 0.25, 0.5))
    for dtype in (torch.uint8, torch.float32, torch.float16, torch.float64):
        found = Normalize(contract)(torch.tensor([51, 51, 51], dtype=dtype).view(1, 3, 1, 1))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.flatten(), torch.tensor([0.2, -1.2, -1.6]))


def test_half_is_that_of_torchvision() -> None:
    assert [half(margin) for margin in range(100)] == [round(margin / 2) for margin in range(100)]


def test_contract_comes_back() -> None:
    contract = Preprocessing((96, 128), 0.9, "bicubic", "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    config = contract.as_pretrained_cfg()
    assert config["input_size"] == (3, 96, 128)
    assert Preprocessing.of(config) == contract
    as_json: dict[str, Any] = config | {
        "mean": list(contract.mean),
        "std": list(contract.std),
        "input_size": [3, 96, 128],
    }
    assert Preprocessing.of(as_json) == contract


def test_contract_of_timm_models() -> None:
    published = timm.get_pretrained_cfg("resnet50.a1_in1k").to_dict()
    assert Preprocessing.of(published) == Preprocessing((224, 224), 0.95, "bicubic")
    published = timm.create_model("test_resnet.r160_in1k").pretrained_cfg
    halves = (0.5, 0.5, 0.5)
    assert Preprocessing.of(published) == Preprocessing((160, 160), 0.95, "bilinear", "center", halves, halves)
    silent = {"crop_mode": None, "crop_pct": None, "interpolation": None}
    found = Preprocessing.of(silent)
    assert found == Preprocessing.of({}) == Preprocessing((224, 224), 0.875, "bicubic", "center")
    theirs = timm.data.resolve_data_config({}, pretrained_cfg=silent)
    assert theirs | {"input_size": (3, 224, 224)} == found.as_pretrained_cfg()


UNUSUAL = [("crop_mode", "border"), ("crop_mode", "fit")]
UNUSUAL += [
    ("interpolation", name) for name in ("random", "lanczos", "hamming", "box", "nearest", "nearest-exact", "area")
]


@pytest.mark.parametrize(("mode", "value"), UNUSUAL)
def test_modes_that_are_not_supported_are_refused_and_replaced_for_training(
    mode: str, value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OptionError, match=f"{value!r} is not supported; use"):
        Preprocessing.of({mode: value})
    network = timm.create_model("test_resnet", pretrained_cfg_overlay={mode: value, "input_size": (3, 32, 32)})
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    with pytest.raises(OptionError, match=f"{value!r} is not supported; use"):
        TorchTeacher(network)
    assert TorchTeacher(network, Preprocessing((32, 32))).input_size == (32, 32)  # said in Python
    for given in (str(tmp_path), f"timm:{tmp_path}"):
        with pytest.raises(
            ModelError, match=f"its {mode} {value!r} is not supported, so images would.*Name another after"
        ):
            open_teacher(given)
        option = "resize" if mode == "crop_mode" else mode
        named = "squash" if mode == "crop_mode" else "bicubic"
        opened = open_teacher(f"{given}#{option}={named}")
        assert getattr(opened.preprocessing, mode) == named  # type: ignore[attr-defined]
    options = with_folder({"arch": str(tmp_path), "pretrained": False, "dim": 8})
    student = create_model(options["arch"], 8, options["pretrained"], arch_options=options["arch_options"])
    used = {"lanczos": "bicubic", "border": "center", "fit": "center"}.get(value, "bilinear")
    assert getattr(preprocessing_of(student), mode) == used
    assert f"its {mode} {value!r} is not supported; {used} is used instead" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": (224, 7)}, r"\(224, 7\)"),
        ({"crop_pct": 0.0}, r"crop_pct is 0\.0"),
        ({"crop_pct": 1.01}, r"crop_pct is 1\.01"),
        ({"interpolation": "nearest"}, "'nearest'.*bilinear or bicubic"),
        ({"crop_mode": "border"}, "'border'.*center or squash"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Preprocessing(**options)


@pytest.mark.parametrize(("dividend", "divisor"), [(7, 2), (9, 2), (10, 4), (11, 4), (6, 4), (13, 5), (0, 3)])
def test_quotients_are_rounded_as_python_rounds(dividend: int, divisor: int) -> None:
    assert rounded_quotient(dividend, divisor) == round(dividend / divisor)


@pytest.mark.parametrize("resized", [*range(224, 300), 438, 518])
def test_the_share_follows_from_what_is_resized(resized: int) -> None:
    found = Preprocessing.resizing(resized, (224, 224), "center")
    assert found.resized_size == (resized, resized)


def test_half_an_odd_margin_is_rounded_down_or_to_the_even_pixel() -> None:
    image = torch.arange(11, dtype=torch.uint8).view(1, 1, 11, 1).expand(1, 8, 11, 3).contiguous()  # a margin of 3
    left = {
        mode: float(
            Preprocess(Preprocessing((8, 8), 1.0, crop_mode=mode, mean=(0,) * 3, std=(1 / 255,) * 3))(image)[0, 0, 0, 0]
        )
        for mode in ("center", "center-floor")
    }
    assert left == pytest.approx({"center": 2, "center-floor": 1})
