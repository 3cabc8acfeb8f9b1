"""A torch module as a teacher."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.arguments import TEACHER_PRECISIONS
from zoo.data.image_set import ImageSet
from zoo.errors import require_known
from zoo.models.embedding import bfloat16_is_fast, dtype_of, embed, run, vectors_of
from zoo.models.facts import facts_of
from zoo.models.network import embed_with_maps, preprocessing_of
from zoo.models.preprocessing import Normalize, Preprocessing
from zoo.models.wrappers import timm_network_in
from zoo.retrieval.label_measures import NDCG_K
from zoo.teachers.base import Teacher, resize_views
from zoo.teachers.foreign import Called, as_module, assumption, classifier_note, name_of, state_of

log = logging.getLogger(__name__)

T = TypeVar("T")
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchTeacher(Teacher):
    """A torch module that takes float32 ``(N, 3, H, W)`` and returns ``(N, D)``.

    Preprocessing and metric are read from a timm network inside the module if it gets the module's input unchanged: in
    DataParallel, averages of weights, ``torch.compile``, nn.Sequential, and user modules. Assumptions are in ``notes``
    and are logged.

    Args:
        module: a module, which is put in eval mode; or a program of torch.export or a function, which stay on their
            device. For pass-through wrappers, the network inside is run.
        preprocessing: how pixels become its input; None for a timm model's own, else ImageNet's.
        metric: None for a zoo model's own, else cosine.
        name: name for reports.
        precision: "fp32", "bf16" or "fp16" for the autocast of views' forward pass; or "auto" for bf16 if the device
            has it in hardware, else fp32.
        notes: other facts about it, in sentences.
        batch_size: number of whole images embedded at a time.
    """

    def __init__(
        self,
        module: nn.Module | ExportedProgram | Callable[[Tensor], Any],
        preprocessing: Preprocessing | None = None,
        metric: str | None = None,
        name: str | None = None,
        precision: str = "fp32",
        notes: Sequence[str] = (),
        batch_size: int = 64,
    ) -> None:
        require_known("teacher_precision", precision, TEACHER_PRECISIONS)
        self.module = as_module(module)
        known = self.module
        inside = None if hasattr(known, "pretrained_cfg") else timm_network_in(known)
        if inside is not None:
            known = inside.network
        assumed = _assumed_preprocessing(known)
        self.preprocessing = preprocessing or assumed or preprocessing_of(known)
        facts = facts_of(known)
        self.metric = metric or facts.metric
        self.name = name or name_of(self.module)
        self.precision = precision
        self.batch_size = batch_size
        self.input_size = self.preprocessing.input_size
        self.continuous = f"ndcg_at_{NDCG_K}" in facts.measured.get("validation", {})
        self._normalize = Normalize(self.preprocessing)
        self._network: Callable[[Tensor], Tensor] = self.module.__call__
        hashed = hashlib.sha256(f"{type(self.module).__name__} {self.metric} {self.preprocessing}".encode())
        for part in state_of(self.module):
            hashed.update(part)
        self.digest = hashed.hexdigest()[:16]
        said = list(notes)
        if preprocessing is None and assumed is not None:
            said.append(assumption(assumed, self.metric if metric is None else None))
        elif metric is None and inside is not None and not inside.same_directions:
            said.append(f"its embeddings are compared as those of the network in it, by {self.metric} distance.")
        if facts.loss is None:  # not trained by this project
            said.append(classifier_note(_dim_of(self.module, self.preprocessing)))
        self.notes = tuple(note for note in said if note)
        for note in self.notes:
            log.warning("teacher %s: %s", self.name, note)

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return embed(self.module, images, self.batch_size, preprocessing=self.preprocessing)

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
            given = pixels.to(dtype_of(self.module)).contiguous(memory_format=torch.channels_last)
            return run(self.module, given, network)

    def precision_on(self, device: torch.device) -> str:
        """Return the precision on a device, with "auto" resolved: "fp32", "bf16" or "fp16"."""
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


def _assumed_preprocessing(module: nn.Module) -> Preprocessing | None:
    """Return ImageNet's preprocessing for a module that defines none, at the module's size if known; else None."""
    if isinstance(getattr(module, "pretrained_cfg", None), dict):
        return None
    size = module.input_size if isinstance(module, Called) else None
    return Preprocessing() if size is None else Preprocessing(input_size=size)


@torch.no_grad()
def _dim_of(module: nn.Module, preprocessing: Preprocessing) -> int | None:
    """Return a module's dimensions, from its attribute or by running it on a blank image; None if it fails."""
    if isinstance(said := getattr(module, "num_classes", None), int):
        return said
    weight = next((weight for weight in module.parameters()), None)
    device = torch.device("cpu") if weight is None else weight.device
    try:
        return vectors_of(module, module(torch.zeros(1, 3, *preprocessing.input_size, device=device))).shape[1]
    except Exception:  # foreign modules may raise anything; their use will report it
        return None
