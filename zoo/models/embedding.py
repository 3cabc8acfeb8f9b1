"""Embed a set of images with a torch model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, UserError, first_line
from zoo.models.network import linear_head_of, preprocessing_of
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.progress import progress as bar_over
from zoo.versions import available_cores, has_bfloat16

T = TypeVar("T")


class _Prepared(Dataset[Tensor]):
    """Images resized, cropped and normalised for a model."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocess = Preprocess(preprocessing)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        result: Tensor = self.preprocess(torch.from_numpy(self.images.pixels(index))[None])
        return result[0]


@torch.inference_mode()
def embed(
    model: nn.Module,
    images: ImageSet,
    batch_size: int = 64,
    workers: int | None = None,
    preprocessing: Preprocessing | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed images with a torch model, in eval mode, on the model's device.

    Args:
        model: takes float32 ``(N, 3, H, W)``, returns ``(N, D)``. Its training mode is restored afterwards.
        images: the images.
        batch_size: number of images embedded at a time.
        workers: processes that decode and resize; None to choose by the machine and the number of images.
        preprocessing: how pixels become the model's input; None for the model's own.
        progress: show a bar.

    Returns:
        float32 ``(len(images), D)``, not normalised.

    Raises:
        ModelError: the model returns something else.
    """
    loader = DataLoader(
        _Prepared(images, preprocessing or preprocessing_of(model)),
        batch_size=batch_size,
        num_workers=worker_count(len(images) // batch_size) if workers is None else workers,
    )
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    was_training = model.training
    model.eval()
    try:
        rows = [
            vectors_of(model, run(model, batch.to(device, dtype_of(model), memory_format=torch.channels_last))).cpu()
            for batch in bar_over(loader, "embedding", shown=progress)
        ]
    finally:
        model.train(was_training)
    return torch.cat(rows).numpy()


def embed_pooled(model: nn.Module, images: ImageSet, progress: bool = True) -> np.ndarray:
    """Return the pooled features of images, the input of a timm model's head.

    Args:
        model: a timm model with a linear head, in training or eval mode.
        images: the images.
        progress: show a bar.

    Returns:
        float32 ``(len(images), F)``, not normalised.

    Raises:
        ModelError: the head is not a single linear layer, so its input is unknown.
    """
    head = linear_head_of(model)
    if head is None:
        raise ModelError(
            f"The head of {type(model).__name__} is not one linear layer, so its pooled features are unknown."
        )
    given: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].flatten(1).float().cpu())

    handle = head.register_forward_pre_hook(keep)
    try:
        embed(model, images, progress=progress)
    finally:
        handle.remove()
    return torch.cat(given).numpy()


def run(model: nn.Module, batch: Tensor, network: Callable[[Tensor], T] | None = None) -> T:
    """Run a model on a batch.

    Args:
        model: the model, which error messages describe.
        batch: ``(N, 3, H, W)``.
        network: called instead of the model, if given.

    Raises:
        ModelError: the call fails, whatever it raises.
    """
    try:
        return (network or model)(batch)
    except UserError:
        raise
    except Exception as error:  # foreign modules may raise anything
        found = next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)
        remedy = "Wrap it in a module that takes (N, 3, H, W) and gives (N, D)."
        if found != 3:
            remedy = f"It takes {found} channels, and images have 3, RGB: wrap it in a module that converts them."
        raise ModelError(
            f"Model {type(model).__name__} failed on a batch of shape {tuple(batch.shape)} ({first_line(error)}). "
            f"{remedy}"
        ) from error


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the floating-point type of a model's weights, which its input must have."""
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)


def vectors_of(model: nn.Module, output: object) -> Tensor:
    """Return a model's output as float32 ``(N, D)``; maps of one pixel, ``(N, D, 1, 1)``, count as vectors.

    Raises:
        ModelError: the output is something else, such as complex numbers or a sparse tensor.
    """
    found = type(output).__name__
    if isinstance(output, Tensor):
        is_plain = output.layout == torch.strided and not output.is_complex()
        if is_plain and output.ndim >= 2 and output.shape[1] and set(output.shape[2:]) <= {1}:
            return output.flatten(1).float()
        what = "" if is_plain else f", {output.dtype if output.is_complex() else output.layout}"
        found = f"shape {tuple(output.shape)}{what}"
    raise ModelError(
        f"Model {type(model).__name__} must give a tensor (N, D) of embeddings, found {found}. "
        "Wrap it in a module that returns them."
    )


def fastest_device() -> torch.device:
    """Return this process's accelerator, or the CPU if there is none."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))


def worker_count(batches: int) -> int:
    """Return how many processes prepare data: 0 for fewer than 20 batches, else one less than the cores, 1 to 8."""
    return min(max(available_cores() - 1, 1), 8) if batches >= 20 else 0


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware; otherwise float32 is two to three times as fast."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bfloat16()
