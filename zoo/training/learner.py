"""The base of learners, for teachers and students: learning rates, schedule and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.arguments import SCHEDULES
from zoo.data.image_set import ImageSet
from zoo.errors import DivergedError, require_known
from zoo.files import write_json
from zoo.losses import CONTINUOUS, labels_of
from zoo.models.embedding import embed, embed_pooled, fastest_device
from zoo.models.facts import facts_of
from zoo.models.network import embed_with_maps, head_of, linear_head_of, preprocessing_of
from zoo.models.preprocessing import Normalize
from zoo.retrieval.label_measures import NDCG_K, measure_by_labels
from zoo.retrieval.measures import measure
from zoo.training.batches.features import embed_features
from zoo.training.checkpoints import BEST, write_best
from zoo.training.options import Training

BACKBONE = "backbone"
_ONEDNN_BLOCK = 16  # channels that oneDNN processes at a time with AVX-512; 8 with AVX2


class Learner(lightning.LightningModule):
    """A model, its loss, and how both are optimised. Subclasses define the training step.

    Args:
        model: the timm model to train.
        loss: its parameters train at ``lr * loss_lr_factor`` (an attribute of the loss, 1 by default); those whose
            name ends in ``proxies`` at ``lr * proxy_lr_factor``. If it has a method ``set_epoch``, that is called with
            the epoch and the number of epochs at the start of each epoch.
        validation: images to measure on after an epoch: by nDCG@10 of continuous labels if the loss learns from those
            or there are no classes, else by MAP@R. None or unlabelled images are not measured.
        asked: options; ``optimisation`` and, of ``machine``, ``compile`` and ``seed`` are used. Weight decay spares
            biases and normalisation layers; ``layer_decay`` follows timm's grouping of layers; ``towards_start`` is
            L2-SP (arXiv:1802.01483) at each weight's own learning rate, and needs a :class:`zoo.training.start.Start`.
            Only training passes are compiled, not feature maps or measurements.
        by_labels: choose the best epoch by continuous labels even if there are classes; None to follow the loss.

    Raises:
        OptionError: unknown schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        validation: ImageSet | None,
        asked: Training,
        by_labels: bool | None = None,
    ) -> None:
        super().__init__()
        require_known("schedule", asked.optimisation.schedule, SCHEDULES)
        self.asked, self.compile_passes, self.seed = asked.optimisation, asked.machine.compile, asked.machine.seed
        self.layout = _layout(model)
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.loss = loss
        self.normalize = Normalize(preprocessing_of(model))
        continuous = labels_of(type(loss)) == CONTINUOUS if by_labels is None else by_labels
        if validation is not None:
            continuous = validation.continuous is not None and (continuous or validation.labels is None)
        known = validation is not None and (continuous or validation.labels is not None)
        self.validation = validation if known else None
        self.measured = f"ndcg_at_{NDCG_K}" if continuous else "recall_at_1"
        # MAP@R, because Recall@1 of a few hundred queries is largely chance.
        self.chosen_by = self.measured if continuous else "map_at_r"
        self.frozen = self.asked.freeze == BACKBONE
        self.start_of: dict[int, Tensor] = {}  # backbone weights to pull back to, by the id of the parameter
        self.on_features = self.frozen and linear_head_of(model) is not None  # features are computed once
        self._seen: np.ndarray | None = None  # features of the validation images
        if self.frozen:
            self._only_head()
        self._network: Callable[[Tensor], Tensor] | None = None
        self.best: dict[str, Any] = {"epoch": None, self.measured: None}
        self.history: list[dict[str, Any]] = []
        self.checkpoints: Path | None = None
        self._last_loss: Tensor | None = None

    def embed_views(self, views: Tensor) -> Tensor:
        """Embed bytes ``(N, 3, H, W)``, or features ``(N, F)`` of a frozen backbone, into ``(N, D)``."""
        if views.ndim == 2:
            return embed_features(self.model, views)
        if self._network is None:
            self._network = self._compiled() if self.compile_passes else self.model.__call__
        return self._network(self._pixels(views))

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        # On CPUs the compiler chooses channels last for convolutions by itself; some networks must avoid that layout.
        options: dict[str, Any] | None = None if self.layout == torch.channels_last else {"layout_optimization": False}
        # Compiling the module instead of its forward would change the names in the state dict.
        compiled: Callable[[Tensor], Tensor] = torch.compile(self.model.forward, options=options)
        return compiled

    def embed_views_with_maps(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embed bytes ``(N, 3, H, W)`` into ``(N, D)``, and return the feature maps too, like ``embed_with_maps``."""
        return embed_with_maps(self.model, self._pixels(views))

    def _pixels(self, views: Tensor) -> Tensor:
        pixels: Tensor = self.normalize(views)
        return pixels.contiguous(memory_format=self.layout)

    def of_all_ranks(self, tensor: Tensor) -> Tensor:
        """Join the rows of all processes, in the same order for every tensor; gradients flow back to each process.

        Args:
            tensor: ``(N, ...)``, with the same number of rows for each of this process's images of the batch.
        """
        if self.trainer.world_size == 1:
            return tensor
        loader: Any = self.trainer.train_dataloader
        images = loader.batch_sampler.images_of_ranks(self.trainer.world_size)
        of_each = len(tensor) // images[self.trainer.global_rank]
        lacking = (images[0] - images[self.trainer.global_rank]) * of_each  # all must send as many rows as rank 0
        padded = functional.pad(tensor, [0, 0] * (tensor.ndim - 1) + [0, lacking]) if lacking else tensor
        gathered = self.all_gather(padded, sync_grads=tensor.requires_grad)
        return torch.cat([rows[: count * of_each] for rows, count in zip(gathered, images, strict=True)])

    def by_all_ranks(self, embed: Callable[[ImageSet], np.ndarray], images: ImageSet) -> np.ndarray:
        """Embed images, a share on each process, and return all embeddings on every process.

        Args:
            embed: returns float32 ``(N, D)``.
            images: the images.

        Returns:
            float32 ``(len(images), D)``, equal on all processes.
        """
        processes = self.trainer.world_size
        if processes == 1:
            return embed(images)
        share = -(-len(images) // processes)
        rows = np.arange(share) * processes + self.trainer.global_rank
        rows %= len(images)  # pads the shares of the last processes with the first images
        mine = torch.from_numpy(embed(images.subset(rows))).to(self.trainer.strategy.root_device)
        gathered: Tensor = self.all_gather(mine)  # type: ignore[assignment]
        return gathered.transpose(0, 1).flatten(0, 1)[: len(images)].cpu().numpy()

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1 and torch.cuda.is_available():  # torch synchronises BatchNorm on GPUs only
            # Lightning's own conversion would drop the activations inside timm's normalisation layers.
            self.model = convert_sync_batchnorm(self.model)

    def configure_optimizers(self) -> Any:
        # No decay for biases, normalisation layers, and what the architecture names, such as position embeddings.
        exempt: set[str] = getattr(self.model, "no_weight_decay", set)()
        if self.asked.layer_decay == 1:
            groups = param_groups_weight_decay(self.model, self.asked.weight_decay, no_weight_decay_list=exempt)
        else:
            groups = param_groups_layer_decay(
                self.model,
                self.asked.weight_decay,
                no_weight_decay_list=tuple(exempt),
                layer_decay=self.asked.layer_decay,
            )
        groups = [
            {
                "params": group["params"],
                "weight_decay": group["weight_decay"],
                "lr": self.asked.lr * group.get("lr_scale", 1),
            }
            for group in groups
        ]
        own = dict(self.loss.named_parameters())
        proxies = [parameter for name, parameter in own.items() if name.endswith("proxies")]
        others = [parameter for name, parameter in own.items() if not name.endswith("proxies")]
        factors = (self.asked.proxy_lr_factor, getattr(self.loss, "loss_lr_factor", 1.0))
        for parameters, times in zip((proxies, others), factors, strict=True):
            groups.append({"params": parameters, "lr": self.asked.lr * times, "weight_decay": self.asked.weight_decay})
        # Fused: one pass over the weights instead of a dozen. Lightning cannot clip for it in mixed precision.
        fused = self.trainer.precision == "32-true"
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=fused)
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(steps // max(self.trainer.max_epochs or 1, 1), 1)

        def factor(step: int) -> float:
            if self.asked.schedule == "step":
                return float(self.asked.step_factor ** (step // (per_epoch * self.asked.step_epochs)))
            rise = max(steps // 20, 1)
            if step < rise:
                return (step + 1) / rise
            return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A seed per epoch (for dropout and the like) makes a resumed run equal to an uninterrupted one. It is set at
        # the first batch because the loader draws a number before it, in another order when a run is resumed.
        if batch_idx == 0:
            torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)

    def on_train_epoch_start(self) -> None:
        set_epoch = getattr(self.loss, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.current_epoch, self.trainer.max_epochs)
        if self.frozen:
            self.model.eval()  # the head's input must not depend on batch statistics or dropout
        elif self.asked.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def on_after_backward(self) -> None:
        if self.current_epoch >= self.asked.warmup_epochs:
            return
        # Gradients are dropped here, not skipped: with several processes, each waits for every parameter's gradient.
        head = {id(parameter) for parameter in head_of(self.model).parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in head:
                parameter.grad = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Of several processes each may have another loss, and with 16 bits one that is infinite is passed over.
        if self.trainer.world_size == 1 and self.trainer.precision != "16-mixed":
            self._last_loss = outputs["loss"].detach()
        if not self.start_of:
            return
        with torch.no_grad():
            for group in self.trainer.optimizers[0].param_groups:
                strength = min(self.asked.towards_start * float(group["lr"]), 1.0)
                for weight in group["params"]:
                    if id(weight) in self.start_of:
                        weight.lerp_(self.start_of[id(weight)], strength)

    def draw_to(self, start: Mapping[str, Tensor]) -> None:
        """Pull the backbone towards these weights (a model's state dict) in training, if ``towards_start`` is set."""
        if self.asked.towards_start:
            head = {id(parameter) for parameter in head_of(self.model).parameters()}
            self.start_of = {
                id(weight): start[name].to(weight.device)
                for name, weight in self.model.named_parameters()
                if id(weight) not in head
            }

    def _only_head(self) -> None:
        head = {id(parameter) for parameter in head_of(self.model).parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in head)

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch + 1
        self.require_finite()
        if self.validation is None or (epoch % self.asked.validate_every and epoch != self.trainer.max_epochs):
            return
        measured = self.measure_validation()
        for name, value in measured.items():
            self.log(f"validation/{name}", value, prog_bar=name == self.measured, rank_zero_only=True)
        self.note(epoch, measured)

    def note(self, epoch: int, measured: Mapping[str, float]) -> None:
        """Record the measures after an epoch (0: before training), and save the weights if they are the best.

        Of equally good epochs the later is the best, but epoch 0 is only replaced by a better one.
        """
        self.history.append({"epoch": epoch, **measured})
        if self.checkpoints is not None and self.trainer.is_global_zero:
            write_json(self.checkpoints.parent / "validation.json", self.history)
        before, now = self.best.get(self.chosen_by), round(measured[self.chosen_by], 6)
        if before is None or now > before or (now == before and self.best["epoch"]):
            self.best = {"epoch": epoch} | {name: round(value, 6) for name, value in measured.items()}
            if self.checkpoints is not None and self.trainer.is_global_zero:
                write_best(contiguous(self), self.checkpoints / BEST)

    def require_finite(self) -> None:
        """Raise a DivergedError where weights, statistics of BatchNorm or the last loss are no longer finite."""
        for what, tensors in (
            ("weights are", [*self.model.parameters(), *self.model.buffers()]),
            ("the loss is", [] if self._last_loss is None else [self._last_loss]),
        ):
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                raise self._diverged(what)

    def _diverged(self, what: str) -> DivergedError:
        epochs = self.asked.epochs
        epoch = min(self.current_epoch + 1, epochs)
        return DivergedError(
            f"Training diverged in epoch {epoch} of {epochs}: {what} no longer finite. Lower lr, which is "
            f"{self.asked.lr}."
        )

    def measure_validation(self) -> dict[str, float]:
        """Embed the validation images with the current weights, and return their measures as :meth:`judge` does."""
        assert self.validation is not None
        embeddings = self._embed_validation(self.validation)
        if not np.isfinite(embeddings).all():
            raise self._diverged("embeddings are")
        return self.judge(embeddings, facts_of(self.model).metric)

    def _embed_validation(self, images: ImageSet) -> np.ndarray:
        if not self.on_features:
            return self.by_all_ranks(partial(embed, self.model, progress=False), images)
        features = torch.from_numpy(self.pooled_validation()).to(self.device)
        with torch.inference_mode():
            return embed_features(self.model, features).float().cpu().numpy()

    def pooled_validation(self, progress: bool = False) -> np.ndarray:
        """Return the pooled features ``(N, F)`` of the validation images; a frozen backbone's are computed once."""
        assert self.validation is not None
        if self._seen is not None:
            return self._seen
        features = self.by_all_ranks(partial(embed_pooled, self.model, progress=progress), self.validation)
        if self.on_features:
            self._seen = features
        return features

    def judge(self, embeddings: np.ndarray, metric: str) -> dict[str, float]:
        """Measure embeddings of the validation images, ``(N, D)``, by classes or by continuous labels."""
        assert self.validation is not None
        if self.measured == "recall_at_1":
            result = measure(embeddings, self.validation, metric)
            return {self.measured: result.recall_at(1), "map_at_r": float(result.average_precision.mean())}
        by_labels = measure_by_labels(embeddings, self.validation, metric)
        return {
            self.measured: by_labels.ndcg_at(NDCG_K),
            f"mean_label_distance_at_{NDCG_K}": by_labels.label_distance_at(NDCG_K),
        }

    def in_words(self, measured: Mapping[str, Any]) -> str:
        """Return measures as text for the log: "Recall@1 97.71 %, MAP@R 81.46 %"."""
        names = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R", f"ndcg_at_{NDCG_K}": f"nDCG@{NDCG_K}"}
        return ", ".join(f"{text} {100 * measured[name]:.2f} %" for name, text in names.items() if name in measured)

    def advice(self) -> str:
        """Return what to try if no epoch was better than the pretrained network."""
        return "Try a lower lr, freeze: backbone, a larger min_crop, or more images."

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"], checkpoint["history"] = self.best, self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best, self.history = checkpoint["best"], checkpoint["history"]


def _layout(model: nn.Module) -> torch.memory_format:
    """Return the memory layout to train in: channels last, the fastest for convolutions on CPUs and tensor cores.

    The exception is strided 1x1 convolutions of few channels on CPUs, such as RepVGG's first: in that layout oneDNN
    writes past its memory in their backward pass, and crashes or returns wrong gradients (uxlfoundation/oneDNN, issue
    6035).
    """
    on_cpu = fastest_device().type == "cpu"
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if on_cpu and any(
        conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels // conv.groups < _ONEDNN_BLOCK
        for conv in convolutions
    ):
        return torch.contiguous_format
    return torch.channels_last


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights as safetensors needs them: on the CPU, and copied, since modules may share memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
