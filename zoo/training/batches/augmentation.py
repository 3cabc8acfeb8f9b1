"""Random views of images, for training. Views are uint8; normalisation belongs to the network that sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms import v2

from zoo.arguments import require_valid
from zoo.data.image_set import ImageSet
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.training.batches.sampling import Draw

WHITE = 255
_NUMBERED = 2  # separates the generators of numbered views from others of the same seed
_MIXED_SHARE = 0.3  # fraction of photo-mixed views that show two images
_MARGIN = 0.03  # fraction of a side by which a mild view is shifted at most


def _photo(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [v2.RandomResizedCrop(size, scale=(min_crop, 1.0), antialias=True), v2.RandomHorizontalFlip()]


def _photo_strong(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.RandomApply([v2.RandomRotation(20, interpolation=v2.InterpolationMode.BILINEAR)], p=0.3),
        *_photo(size, min_crop),
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.3, hue=0.03)], p=0.8),
    ]


def _mild(size: tuple[int, int]) -> list[v2.Transform]:
    margins = [math.ceil(_MARGIN * size[1]), math.ceil(_MARGIN * size[0])]  # left and right, top and bottom
    return [
        v2.RandomCrop(size, padding=margins, padding_mode="edge"),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]


MIXED, MILD, DRAWING = "photo-mixed", "mild", "drawing"
PHOTOS = {"photo": _photo, "photo-strong": _photo_strong, MIXED: _photo}
FLIPPING = frozenset(PHOTOS)
"""Augmentations that mirror and crop images, which changes a label such as a pose or a place."""


_BLENDED_OR_CUT = v2.RandomChoice([v2.MixUp(num_classes=1), v2.CutMix(num_classes=1)])


def mixed(views: Tensor) -> Tensor:
    """Blend or paste the second of two photographs ``(2, 3, H, W)`` uint8 into the first; return ``(3, H, W)``.

    Chooses Mixup (Zhang et al., ICLR 2018) or CutMix (Yun et al., ICCV 2019) at random, in a random proportion. From a
    teacher's embeddings of such views a student learns about more than the classes of its training images.
    """
    no_labels = torch.zeros(2, dtype=torch.int64)
    shown: Tensor = _BLENDED_OR_CUT(views.float(), no_labels)[0][0]
    return shown.round().to(torch.uint8)


_TURN, _SHIFT, _SHEAR = math.radians(15), 0.1, (math.radians(15), math.radians(8))


def affines(chance: Tensor, size: tuple[int, int], min_crop: float) -> Tensor:
    """Return random affine maps of drawings: rotation, shear, scale and shift about their centre.

    A point of the drawing moves to ``scale * R(turn) * shear_y * shear_x * point + shift``. All are uniform: the turn
    within ±15 degrees, the shears within ±15 (x) and ±8 (y) degrees, the scale within ``1 - sqrt(min_crop)`` of 1, and
    the shift within a tenth of each side.

    Args:
        chance: ``(N, 6)`` in 0..1, random numbers for turn, shear in x and y, scale, shift in x and y.
        size: height and width, pixels.
        min_crop: smallest scale, as a fraction of the area.

    Returns:
        float32 ``(N, 2, 3)``, from points of the view to points of the drawing, as ``affine_grid`` takes them.
    """
    spread = (2 * chance - 1).unbind(dim=1)
    turn, shear_x, shear_y = spread[0] * _TURN, (spread[1] * _SHEAR[0]).tan(), (spread[2] * _SHEAR[1]).tan()
    scale = 1 + spread[3] * (1 - min_crop**0.5)
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 2, 2)

    turned_back = matrix(turn.cos(), turn.sin(), -turn.sin(), turn.cos()) / scale.view(-1, 1, 1)
    back = matrix(one, -shear_x, zero, one) @ matrix(one, zero, -shear_y, one) @ turned_back
    # Grid coordinates run from -1 to 1 along each side, so a tenth of a side is 0.2.
    height, width = size
    ratio = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    shift = 2 * _SHIFT * torch.stack(spread[4:6], dim=1).unsqueeze(2)
    return torch.cat([back * ratio, -(back * ratio) @ shift], dim=2)


def transformed(drawings: Tensor, maps: Tensor) -> Tensor:
    """Apply affine maps ``(N, 2, 3)`` to drawings ``(N, 3, H, W)`` uint8; points outside a drawing are white."""
    ink = WHITE - drawings.float()
    grid = functional.affine_grid(maps, list(ink.shape), align_corners=False)
    return (WHITE - functional.grid_sample(ink, grid, align_corners=False)).round().to(torch.uint8)


class Views(Dataset[tuple[Tensor, ...]]):
    """Random views of the images of a set; item ``(index, draw)`` is ``((V, 3, H, W) uint8, index)``.

    With ``numbered``, an image has this many views in total, each determined by the seed, the image and the view's
    number. A draw chooses among them, and their numbers, int64 ``(V,)``, come last in the item.

    Args:
        images: the images.
        preprocessing: determines the size of the views; with ``augment`` "none" its resize and crop make the view.
        augment: "photo" (random resized crop and horizontal flip, as in the papers), "photo-strong" (also rotation and
            colour jitter), "photo-mixed" (some with another image of the set blended or pasted in, see :func:`mixed`:
            for losses that use only the teacher's embedding of the view), "mild" (the test view, shifted by at most
            3 % of a side, with slight colour jitter: for labels that a flip would change), "drawing" (rotation, shear,
            scale and shift, for dark ink on white; no flip) or "none".
        min_crop: smallest fraction of the image's area that a view may show, in (0, 1].
        views: number of views of each image in a batch.
        numbered: total number of views of each image, at least ``views``; None for new ones each time.
        seed: seed of numbered views.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        augment: str = "photo",
        min_crop: float = 0.2,
        views: int = 1,
        numbered: int | None = None,
        seed: int = 0,
    ) -> None:
        require_valid({"augment": augment, "min_crop": min_crop, "views": views, "teacher_views": numbered})
        self.numbered, self.seed = numbered, seed
        self.images = images
        self.views = views
        self.augment = augment
        self.min_crop = min_crop
        self.size = preprocessing.input_size
        self._fixed = Preprocess(preprocessing)
        transforms = _mild(self.size) if augment == MILD else []
        if augment in PHOTOS:
            transforms = PHOTOS[augment](self.size, min_crop)
        self._random = v2.Compose(transforms) if transforms else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, ...]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Any, ...]]:
        """Return the items of a batch; DataLoader calls this."""
        indices = [index for index, _ in draws]
        if self.numbered is None:
            return list(zip(self._shown([(index, [seed]) for index, seed in draws]), indices, strict=True))
        numbers = [self._numbers(seed, self.numbered) for _, seed in draws]
        seeded = [(index, self._seeds(index, chosen)) for index, chosen in zip(indices, numbers, strict=True)]
        return list(zip(self._shown(seeded), indices, map(torch.from_numpy, numbers), strict=True))

    def _numbers(self, draw: int, count: int) -> np.ndarray:
        """Return the numbers of the views that a draw shows, out of ``count``: int64 ``(V,)``, all different."""
        if self.augment == "none":
            return np.zeros(self.views, np.int64)  # all views are equal
        return np.random.default_rng(draw).permutation(count)[: self.views]

    def _seeds(self, index: int, numbers: np.ndarray) -> list[int]:
        states = [np.random.SeedSequence([self.seed, index, number, _NUMBERED]) for number in numbers.tolist()]
        return [int(state.generate_state(1, np.uint64)[0] >> 2) for state in states]

    def _shown(self, seeded: Sequence[tuple[int, list[int]]]) -> Iterable[Tensor]:
        """Return ``(V, 3, H, W)`` views of each image, from one seed for all of them or a seed for each."""
        if self.augment == DRAWING:
            return self._drawings(seeded)
        if self._random is None:
            return [self._as_tested(index).expand(self.views, -1, -1, -1) for index, _ in seeded]
        with torch.random.fork_rng(devices=[]):
            return [self._photos(index, seeds, self._random) for index, seeds in seeded]

    def _as_tested(self, index: int) -> Tensor:
        return self._fixed.resize(self._pixels(index)[None].float()).round().clamp(0, 255).to(torch.uint8)

    def _photos(self, index: int, seeds: Sequence[int], random: v2.Transform) -> Tensor:
        pixels = self._as_tested(index)[0] if self.augment == MILD else self._pixels(index)
        shown = []
        for seed in seeds:
            # A seed per draw makes views independent of the number of workers, and a resumed run equal to an
            # uninterrupted one. torch.manual_seed would be slow: it formats a stack trace for each kind of device.
            torch.default_generator.manual_seed(seed)
            shown += [self._photo(pixels, random) for _ in range(self.views // len(seeds))]
        return torch.stack(shown)

    def _photo(self, pixels: Tensor, random: v2.Transform) -> Tensor:
        view: Tensor = random(pixels)
        if self.augment != MIXED or float(torch.rand(())) >= _MIXED_SHARE:
            return view
        other = int(torch.randint(len(self.images), ()))
        return mixed(torch.stack([view, random(self._pixels(other))]))

    def _drawings(self, seeded: Sequence[tuple[int, list[int]]]) -> Tensor:
        """Return ``(N, V, 3, H, W)``, computed in one pass for the whole batch, which takes a tenth of the time."""
        whole = [v2.functional.resize(self._pixels(index), list(self.size), antialias=True) for index, _ in seeded]
        generator = torch.Generator()
        chance = [
            torch.rand(self.views // len(seeds), 6, generator=generator.manual_seed(seed))
            for _, seeds in seeded
            for seed in seeds
        ]
        shown = torch.stack(whole).repeat_interleave(self.views, dim=0)
        views = transformed(shown, affines(torch.cat(chance), self.size, self.min_crop))
        return views.unflatten(0, (len(seeded), self.views))

    def _pixels(self, index: int) -> Tensor:
        return torch.from_numpy(self.images.pixels(index)).permute(2, 0, 1)
