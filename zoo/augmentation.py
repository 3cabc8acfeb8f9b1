"""Random views of an image, for training. Views are bytes; normalisation belongs to the network that sees them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError, require_known
from zoo.preprocessing import Preprocess, Preprocessing

WHITE = 255


def _photo(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [v2.RandomResizedCrop(size, scale=(min_crop, 1.0), antialias=True), v2.RandomHorizontalFlip()]


def _photo_strong(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.RandomApply([v2.RandomRotation(20, interpolation=v2.InterpolationMode.BILINEAR)], p=0.3),
        *_photo(size, min_crop),
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.3, hue=0.03)], p=0.8),
    ]


def _drawing(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    smallest = min_crop**0.5  # as a photo's crop, min_crop is a fraction of the area
    return [
        v2.Resize(size, antialias=True),
        v2.RandomAffine(
            degrees=15,
            translate=(0.1, 0.1),
            scale=(smallest, 2 - smallest),
            shear=(-15, 15, -8, 8),
            interpolation=v2.InterpolationMode.BILINEAR,
            fill=WHITE,
        ),
    ]


AUGMENTATIONS = {"photo": _photo, "photo-strong": _photo_strong, "drawing": _drawing}


class Views(Dataset[tuple[Tensor, int]]):
    """Random views of the images of a set; item ``(index, draw)`` gives ``((V, 3, H, W) uint8, index)``.

    Args:
        images: the images.
        preprocessing: gives the size of the views; its resize and crop make the view where ``augment`` is "none".
        augment: "photo" (random resized crop and horizontal flip, as in the papers), "photo-strong" (with turns and
            colour jitter too), "drawing" (turn, shear, scale and shift, for dark ink on white; no flip) or "none".
        min_crop: smallest part of the image's area that a view may show, in (0, 1].
        views: number of views of each image.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        augment: str = "photo",
        min_crop: float = 0.2,
        views: int = 1,
    ) -> None:
        if not 0 < min_crop <= 1:
            raise OptionError(f"min_crop is {min_crop}; it must lie in (0, 1].")
        require_known("augmentation", augment, [*AUGMENTATIONS, "none"])
        if views < 1:
            raise OptionError(f"views is {views}; it must be at least 1.")
        self.images = images
        self.views = views
        self._fixed = Preprocess(preprocessing)
        self._random = None
        if augment != "none":
            self._random = v2.Compose(AUGMENTATIONS[augment](preprocessing.input_size, min_crop))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = draw
        pixels = torch.from_numpy(self.images.pixels(index)).permute(2, 0, 1)
        if self._random is None:
            view = self._fixed.resize(pixels[None].float()).round().clamp(0, 255).to(torch.uint8)
            return view.expand(self.views, -1, -1, -1), index
        with torch.random.fork_rng(devices=[]):
            # A seed per draw makes views independent of the number of workers, and a resumed run equal to a whole one.
            # The CPU's generator alone: torch.manual_seed also formats a stack trace for each kind of device.
            torch.default_generator.manual_seed(seed)
            return torch.stack([self._random(pixels) for _ in range(self.views)]), index
