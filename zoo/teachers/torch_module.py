"""A torch module as a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from zoo.arguments import TEACHER_PRECISIONS
from zoo.data.image_set import ImageSet
from zoo.errors import require_known
from zoo.models.embedding import dtype_of, embed, vectors_of
from zoo.models.facts import facts_of
from zoo.models.network import embed_with_maps, preprocessing_of
from zoo.models.precision import bfloat16_is_fast
from zoo.models.preprocessing import Normalize, Preprocessing
from zoo.retrieval.label_measures import NDCG_K
from zoo.teachers.base import Teacher, resize_views

T = TypeVar("T")
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchTeacher(Teacher):
    """A torch module that takes float32 ``(N, 3, H, W)`` and gives ``(N, D)``.

    Args:
        module: put in eval mode.
        preprocessing: how pixels become its input; None for what a timm model says of itself, else ImageNet's.
        metric: None for what a zoo model says of itself, else cosine.
        name: for reports.
        precision: "fp32", "bf16" or "fp16": autocast of the views' forward pass; or "auto": bf16 where the device has
            it in hardware, else fp32.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing | None = None,
        metric: str | None = None,
        name: str | None = None,
        precision: str = "fp32",
    ) -> None:
        require_known("teacher_precision", precision, TEACHER_PRECISIONS)
        self.module = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocessing = preprocessing or preprocessing_of(module)
        self.metric = metric or facts_of(module).metric
        self.name = name or type(module).__name__
        self.precision = precision
        self.input_size = self.preprocessing.input_size
        self.continuous = f"ndcg_at_{NDCG_K}" in facts_of(module).measured.get("validation", {})
        self._normalize = Normalize(self.preprocessing)
        self._network: Callable[[Tensor], Tensor] = self.module.__call__
        hashed = hashlib.sha256(f"{type(module).__name__} {self.metric} {self.preprocessing}".encode())
        for key, tensor in module.state_dict().items():
            hashed.update(key.encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        self.digest = hashed.hexdigest()[:16]

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return embed(self.module, images, preprocessing=self.preprocessing)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        return vectors_of(self.module, self._run(self._network, views))

    def embed_views_with_maps(self, views: Tensor, indices: Tensor, images: ImageSet) -> tuple[Tensor, list[Tensor]]:
        embeddings, maps = self._run(partial(embed_with_maps, self.module), views)
        return embeddings.float(), maps

    @torch.no_grad()
    def _run(self, network: Callable[[Tensor], T], views: Tensor) -> T:
        self.module.eval()
        pixels = self._normalize(resize_views(views, self.preprocessing.input_size))
        dtype = AUTOCAST[self.precision_on(views.device)]
        with torch.autocast(views.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return network(pixels.to(dtype_of(self.module)).contiguous(memory_format=torch.channels_last))

    def precision_on(self, device: torch.device) -> str:
        """Return what ``precision`` comes to on a device: "fp32", "bf16" or "fp16"."""
        if self.precision == "auto":
            return "bf16" if bfloat16_is_fast(device) else "fp32"
        return self.precision

    def to(self, device: torch.device) -> Teacher:
        self.module.to(device)
        self._normalize.to(device)
        return self

    def compile(self) -> Teacher:
        self._network = torch.compile(self.module.forward)
        return self

    def parameters(self) -> int | None:
        return sum(parameter.numel() for parameter in self.module.parameters())
