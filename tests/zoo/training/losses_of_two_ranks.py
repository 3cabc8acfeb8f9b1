"""Compute every loss on a batch divided over two processes, and on the whole batch in one; run by test_ranks.

Each loss sees two batches, so that its memory of the first counts too. Of the second, the value and the gradients of
its inputs and parameters are saved. The script also embeds five images, divided over the two processes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from compressor.losses import LOSSES as TRANSFER_LOSSES
from zoo.data.image_set import ImageSet
from zoo.losses import CONTINUOUS, LOSSES, create_loss, find_loss, labels_of
from zoo.models.making import create_model
from zoo.training.batches.sampling import BatchSampler
from zoo.training.learner import Learner
from zoo.training.options import Training

IMAGES, VIEWS, DIM, TEACHER_DIM, CLASSES = 7, 2, 5, 6, 3
Gather = Callable[[Tensor], Tensor]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(name: str, seed: int, images: Tensor) -> dict[str, Tensor]:
    """Return what a loss may be given of these images of a batch: leaves with gradients, and integers."""
    views = 1 if name in LOSSES else VIEWS
    rows = images.repeat(views)
    place = rows + IMAGES * torch.arange(views).repeat_interleave(len(images))
    given = {
        "student": random(seed, IMAGES * views, DIM)[place],
        "student_map0": random(seed + 1, IMAGES * views, 4, 4, 4)[place],
        "student_map1": random(seed + 2, IMAGES * views, 3, 2, 2)[place],
    }
    for tensor in given.values():
        tensor.requires_grad_()
    return given | {
        "teacher": random(seed + 3, IMAGES * views, TEACHER_DIM)[place],
        "teacher_map0": random(seed + 4, IMAGES * views, 6, 4, 4)[place],
        "teacher_map1": random(seed + 5, IMAGES * views, 2, 2, 2)[place],
        "image_ids": rows,
        "labels": rows % CLASSES,
        "distances": random(seed + 6, IMAGES * views).abs()[place],
    }


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    known = LOSSES if name in LOSSES else TRANSFER_LOSSES
    facts = {
        "num_images": IMAGES,
        "num_classes": CLASSES,
        "dim": DIM,
        "student_dim": DIM,
        "teacher_dim": TEACHER_DIM,
        "teacher_sample": lambda: random(5, 40, TEACHER_DIM),
        "student_channels": [4, 3],
        "teacher_channels": [6, 2],
    }
    taken = inspect.signature(find_loss(name, known)).parameters
    return create_loss(name, known, **{key: fact for key, fact in facts.items() if key in taken}).double()


def value_of(loss: nn.Module, name: str, given: dict[str, Tensor]) -> Tensor:
    """Return the loss as the learners ask for it."""
    embeddings = given["student"]
    if name in LOSSES:
        if labels_of(type(loss)) == CONTINUOUS:
            return loss(embeddings[0], embeddings[1:], given["distances"][1:])  # type: ignore[no-any-return]
        return loss(embeddings, given["labels"])  # type: ignore[no-any-return]
    named: dict[str, Any] = {
        "labels": given["labels"],
        "student_maps": [given["student_map0"], given["student_map1"]],
        "teacher_maps": [given["teacher_map0"], given["teacher_map1"]],
    }
    named = {key: value for key, value in named.items() if key in inspect.signature(loss.forward).parameters}
    return loss(embeddings, given["teacher"], given["image_ids"], **named)  # type: ignore[no-any-return]


def measure(name: str, images: Tensor, gather: Gather, share: int) -> dict[str, Tensor]:
    """Return value and gradients, divided as several processes divide them, by what they are of."""
    loss, found = made(name), {}
    for seed in (10, 20):
        given = batch_of(name, seed, images)
        loss.zero_grad()
        torch.manual_seed(seed)  # of noise, which all processes draw alike
        value = value_of(loss, name, {key: gather(tensor) for key, tensor in given.items()})
        value.backward()
        found = {"value": value.detach()}
        found |= {key: tensor.grad / share for key, tensor in given.items() if tensor.grad is not None}
        found |= {key: weight.grad for key, weight in loss.named_parameters() if weight.grad is not None}
    return found


def first_pixels(images: ImageSet) -> np.ndarray:
    return np.stack([images.pixels(row)[0, 0] for row in range(len(images))]).astype(np.float32)


def main(out: Path, rank: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=2)
    learner = Learner(create_model("test_vit", DIM, image_size=32), nn.Identity(), None, Training.of({}))
    loader = SimpleNamespace(batch_sampler=BatchSampler(IMAGES, None, IMAGES))
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2)
    trainer = {"world_size": 2, "global_rank": rank, "strategy": strategy, "train_dataloader": loader}
    learner.trainer = SimpleNamespace(**trainer)  # type: ignore[assignment]
    images = ImageSet(list("abcde"), [np.full((2, 2, 3), number, np.uint8) for number in range(5)])
    found = {"embedded": torch.from_numpy(learner.by_all_ranks(first_pixels, images))}
    for name in (*LOSSES, *TRANSFER_LOSSES):
        mine = measure(name, torch.arange(rank, IMAGES, 2), learner.of_all_ranks, 2)
        found |= {f"{name} {key}": tensor for key, tensor in mine.items()}
        if rank == 0:
            whole = measure(name, torch.arange(IMAGES), lambda tensor: tensor, 1)
            found |= {f"{name} {key} alone": tensor for key, tensor in whole.items()}
    save_file({key: tensor.contiguous() for key, tensor in found.items()}, out / f"rank{rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
