"""Random views: determined by their seed, and within their ranges."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from export.onnx.tracing import smooth_images
from zoo.arguments import AUGMENTATIONS
from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.training.batches.augmentation import WHITE, Views, affines, transformed

CONTRACT = Preprocessing((32, 32), 0.8)


def image_set(*pixels: np.ndarray) -> ImageSet:
    return ImageSet([str(i) for i in range(len(pixels))], list(pixels))


PHOTOS = image_set(*smooth_images(3))


def draws(augment: str, image: np.ndarray, count: int, min_crop: float) -> list[np.ndarray]:
    """Return views of 32 x 32 pixels, uint8 (H, W, 3)."""
    views = Views(image_set(image), CONTRACT, augment, min_crop)
    return [views[0, seed][0][0].permute(1, 2, 0).numpy() for seed in range(count)]


@pytest.mark.parametrize("augment", AUGMENTATIONS[:-1])  # without "none"
def test_the_seed_decides_the_views(augment: str) -> None:
    views = Views(PHOTOS, CONTRACT, augment, views=2)
    shown, index = views[1, 7]
    assert index == 1
    assert (shown.dtype, shown.shape) == (torch.uint8, (2, 3, 32, 32))
    torch.manual_seed(123)  # the global state must not matter
    again, _ = Views(PHOTOS, CONTRACT, augment, views=2)[1, 7]
    assert torch.equal(shown, again)
    for other in (views[1, 8][0], views[0, 7][0]):
        assert (shown.float() - other.float()).abs().mean() > 1
    assert (shown[0].float() - shown[1].float()).abs().mean() > 1
    assert torch.equal(Views(PHOTOS, CONTRACT, augment)[1, 7][0], shown[:1])


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_global_random_states_stay_as_they_are(augment: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    Views(PHOTOS, CONTRACT, augment)[0, 3]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert random.getstate() == before[2]


def test_none_is_the_preprocessing_of_test_time() -> None:
    shown, _ = Views(PHOTOS, CONTRACT, "none", views=3)[2, 0]
    pixels = torch.from_numpy(PHOTOS.pixels(2))[None].permute(0, 3, 1, 2).float()
    expected = Preprocess(CONTRACT).resize(pixels)
    assert (shown.dtype, shown.shape) == (torch.uint8, (3, 3, 32, 32))
    for view in shown:
        assert (view.float() - expected[0]).abs().max() <= 0.5  # rounded to bytes, no more


@pytest.mark.parametrize("augment", ["photo", "none"])
def test_whole_squares_are_shown_where_no_smaller_crop_is_allowed(augment: str) -> None:
    image = smooth_images(1)[0]
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    views = Views(image_set(image), Preprocessing((32, 32), 1.0), augment, min_crop=1.0)
    mirrored = 0
    for seed in range(20):
        view = views[0, seed][0][0].permute(1, 2, 0).numpy().astype(np.float32)
        same, turned = (np.abs(view - image).max() for image in (expected, expected[:, ::-1]))
        assert min(same, turned) <= 1.5
        mirrored += turned < same
    assert 0 < mirrored < 20 if augment == "photo" else mirrored == 0


@pytest.mark.parametrize("min_crop", [0.2, 0.7])
def test_photos_show_at_least_the_smallest_crop(min_crop: float) -> None:
    # Red grows by 1 from column to column and green from row to row, so a view's range tells its part of the image.
    rows, columns = np.mgrid[0:200, 0:200].astype(np.uint8)
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=2)
    areas = []
    for view in draws("photo", image, 200, min_crop):
        width, height = (np.ptp(view[:, :, channel].astype(float)) * 32 / 31 / 200 for channel in (0, 1))
        areas.append(width * height)
    assert min_crop - 0.05 <= min(areas) < min_crop + 0.1  # within what rounding does
    assert max(areas) > 0.9


def handedness(view: np.ndarray) -> float:
    """Return twice the area of the triangle red, green, blue: positive as drawn below, negative mirrored."""
    pixels = view.astype(float)
    corners = []
    for channel in range(3):
        weight = np.clip(pixels[:, :, channel] - np.delete(pixels, channel, axis=2).max(axis=2), 0, None)
        corners.append([(np.arange(32) * weight.sum(axis)).sum() / weight.sum() for axis in (0, 1)])  # x, y
    (x1, y1), (x2, y2), (x3, y3) = corners
    return float((x2 - x1) * (y3 - y1) - (x3 - x1) * (y2 - y1))


def test_drawings_stay_on_white_and_are_never_mirrored() -> None:
    image = np.full((64, 64, 3), 255, dtype=np.uint8)
    image[20:28, 20:28] = (255, 0, 0)
    image[20:28, 36:44] = (0, 255, 0)
    image[36:44, 28:36] = (0, 0, 255)
    upright = 8 * 8  # of the triangle with base 8 and height 8, in views of half the size
    areas = []
    for view in draws("drawing", image, 100, 0.5):
        assert (view == 255).mean() > 0.6
        areas.append(handedness(view) / upright)
    # Turns and shears nearly keep the area; the scale, sqrt(1/2) to 2 - sqrt(1/2), enters squared.
    assert 0.4 < min(areas) < 0.7 and 1.3 < max(areas) < 1.9
    mirrored = [handedness(view) < 0 for view in draws("photo", image, 20, 1.0)]
    assert 0 < sum(mirrored) < 20


def test_what_lies_beyond_a_drawing_is_white() -> None:
    black = np.zeros((40, 40, 3), dtype=np.uint8)
    shown = np.stack(draws("drawing", black, 50, 0.5))
    assert set(np.unique(shown[:, [0, 0, -1, -1], [0, -1, 0, -1]])) >= {0, 255}
    assert (shown[:, 16, 16] == 0).all()
    # Scaled by sqrt(1/2) to 2 - sqrt(1/2), a view shows between 60 % and 100 % of the image.
    assert 0.3 < (shown < 128).mean(axis=(1, 2, 3)).min() < 0.6


@pytest.mark.parametrize(
    ("place", "chance", "movement"),
    [
        (0, 1.0, {"angle": 15}),
        (1, 1.0, {"shear": [-15, 0]}),  # torchvision's leans the other way
        (2, 0.0, {"shear": [0, 8]}),
        (3, 0.0, {"scale": 0.7}),
        (3, 1.0, {"scale": 1.3}),
        (4, 0.0, {"translate": [-6, 0]}),
        (5, 1.0, {"translate": [0, 4]}),
        (5, 0.5, {}),
    ],
)
def test_drawings_move_as_torchvision_moves_them(place: int, chance: float, movement: dict[str, Any]) -> None:
    height, width = 40, 60
    drawing = torch.from_numpy(smooth_images(1)[0]).permute(2, 0, 1)[:, :height, :width]
    chances = torch.full((2, 6), 0.5)  # the middle: left as it is
    chances[1, place] = chance
    shown = transformed(drawing.expand(2, -1, -1, -1), affines(chances, (height, width), min_crop=0.49))
    assert torch.equal(shown[0], drawing)
    still: dict[str, Any] = {"angle": 0, "translate": [0, 0], "scale": 1.0, "shear": [0, 0]}
    fill, bilinear = [float(WHITE)] * 3, InterpolationMode.BILINEAR
    expected = affine(drawing, **still | movement, interpolation=bilinear, fill=fill)
    difference = (shown[1].float() - expected.float()).abs()
    # They differ by a rounding, and where the border runs through a pixel.
    assert difference.median() <= 1 and difference.mean() < 1.5
    if movement:
        assert (shown[1].float() - drawing.float()).abs().mean() > 3


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_a_batch_shows_what_its_images_show_alone(augment: str) -> None:
    views = Views(PHOTOS, CONTRACT, augment, views=2)
    draws = [(1, 7), (0, 8), (1, 9)]
    for shown, indices in DataLoader(views, batch_sampler=[draws]):
        assert indices.tolist() == [1, 0, 1]
        for row, draw in zip(shown, draws, strict=True):
            assert torch.equal(row, views[draw][0])


def test_mild_views_are_what_is_tested_on_moved_by_a_pixel_and_never_mirrored() -> None:
    ramp = np.repeat(np.arange(40, 240, 5, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    tested = draws("none", ramp, 1, 1.0)[0].astype(float)
    shown = np.stack(draws("mild", ramp, 40, 1.0)).astype(float)
    slopes = np.diff(shown.mean(axis=(1, 3)), axis=1)[:, 2:-2]
    assert slopes.min() > 0  # brighter from left to right in every view
    colours = shown.mean(axis=(1, 2, 3)) / tested.mean()
    assert 0.75 < colours.min() < 0.95 and 1.05 < colours.max() < 1.25
    # Where brightness is half way between both ends, which neither brightness nor contrast moves.
    levels = shown.mean(axis=(1, 3))
    middle = np.abs(levels - (levels[:, :1] + levels[:, -1:]) / 2).argmin(axis=1)
    assert 14 <= middle.min() < middle.max() <= 17


def test_strong_photos_vary_in_colour() -> None:
    grey = np.full((40, 40, 3), (120, 90, 60), dtype=np.uint8)
    plain, strong = (np.stack(draws(augment, grey, 60, 0.5)) for augment in ("photo", "photo-strong"))
    assert (plain == [120, 90, 60]).all()
    centres = strong[:, 16, 16].astype(float)
    untouched = (centres == [120, 90, 60]).all(axis=1).mean()
    assert 0.05 < untouched < 0.4  # 1 in 5 keeps its colours
    assert centres.std(axis=0).min() > 5
    turned = (strong[:, 0, 0] < 5).all(axis=1).mean()
    assert turned < 0.4  # the corners of turned images; 3 in 10 are turned


def test_mixed_photos_show_two_images_in_three_views_of_ten() -> None:
    """Of a black and a white set, a view is of one level unless mixed; blended and cut ones are as many."""
    levels = [np.full((40, 40, 3), level, dtype=np.uint8) for level in (0, 250)]
    images = image_set(*(levels * 10))
    views = Views(images, CONTRACT, "photo-mixed", 0.5)
    shown = [views[0, seed][0][0] for seed in range(400)]
    blended = [float(view[0, 0, 0]) for view in shown if 0 < int(view[0, 0, 0]) == int(view.min()) == int(view.max())]
    cut = [(view == 250).float().mean().item() for view in shown if 0 == int(view.min()) < int(view.max())]
    # Half of the partners are of the same level, where mixing shows nothing.
    assert 0.04 < len(blended) / len(shown) < 0.11
    assert 0.04 < len(cut) / len(shown) < 0.11
    assert all((view == 0).logical_or(view == 250).all() for view in shown if int(view.min()) == 0)  # sharp edges
    assert min(blended) < 75 < 175 < max(blended)
    assert min(cut) < 0.3 < 0.7 < max(cut)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_crop": 0.0}, r"min_crop is 0\.0"),
        ({"min_crop": 1.1}, r"min_crop is 1\.1"),
        ({"augment": "drawings"}, r"photo-strong, photo-mixed, mild, drawing and none\. Did you mean drawing"),
        ({"views": 0}, "views is 0"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Views(PHOTOS, CONTRACT, **options)


@pytest.mark.parametrize("augment", ["photo", "photo-strong", "photo-mixed", "mild", "drawing"])
def test_numbered_views_are_the_same_whenever_they_are_drawn(augment: str) -> None:
    views = Views(PHOTOS, CONTRACT, augment, views=2, numbered=3, seed=4)
    found: dict[int, Tensor] = {}
    for draw in range(30):
        (shown, index, numbers), _ = views.__getitems__([(1, draw), (0, draw)])
        assert index == 1
        assert len(set(numbers.tolist())) == 2
        for view, number in zip(shown, numbers.tolist(), strict=True):
            assert torch.equal(found.setdefault(number, view), view)
    assert sorted(found) == [0, 1, 2]
    assert not torch.equal(found[0], found[1])
    others = [Views(PHOTOS, CONTRACT, augment, views=3, numbered=3, seed=seed)[1, 0] for seed in (4, 5)]
    shown, _, numbers = others[0]
    for view, number in zip(shown, numbers.tolist(), strict=True):  # however many are shown together
        assert torch.equal(found[number], view)
    assert not torch.equal(others[0][0].sort(0).values, others[1][0].sort(0).values)


def test_numbered_views_without_augmentation_are_one() -> None:
    shown, _, numbers = Views(PHOTOS, CONTRACT, "none", views=2, numbered=8)[0, 5]
    assert numbers.tolist() == [0, 0]
    assert torch.equal(shown[0], shown[1])
