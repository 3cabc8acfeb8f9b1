"""What training a teacher and distilling a student share: rates, schedule, validation."""

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
_ONEDNN_BLOCK = 16  # channels that oneDNN takes at a time with AVX-512, 8 with AVX2


class Learner(lightning.LightningModule):
    """A model, its loss and the way both are optimised. Subclasses say what a training step is.

    Args:
        model: the timm model to train.
        loss: its own parameters train at ``lr * loss_lr_factor``, an attribute of the loss, 1 where it has none; those
            whose name ends in ``proxies`` at ``lr * proxy_lr_factor``. Where it has a method ``set_epoch``, it is told
            the epoch and their number at the start of each.
        validation: images to measure on at epoch ends, by nDCG@10 of continuous labels where the loss learns from those
            or there are no classes, else by MAP@R; None or unlabelled for not at all.
        asked: ``optimisation`` and, of ``machine``, ``compile`` and ``seed``. Weight decay spares biases and
            normalisation layers; ``layer_decay`` goes by timm's grouping of layers; ``towards_start`` is L2-SP
            (arXiv:1802.01483) and takes a :class:`zoo.training.start.Start`. Training passes alone are compiled, not
            feature maps or measurements.
        by_labels: continuous labels choose the best epoch, where there are classes too; None for what the loss learns
            from.

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
        # MAP@R, since of a few hundred queries Recall@1 is much a matter of chance.
        self.chosen_by = self.measured if continuous else "map_at_r"
        self.frozen = self.asked.freeze == BACKBONE
        self.start_of: dict[str, Tensor] = {}  # weights of the backbone to be drawn back to
        self.on_features = self.frozen and linear_head_of(model) is not None  # which are computed once
        self._seen: np.ndarray | None = None  # those of the validation images
        if self.frozen:
            self._only_head()
        self._network: Callable[[Tensor], Tensor] | None = None
        self.best: dict[str, Any] = {"epoch": None, self.measured: None}
        self.history: list[dict[str, Any]] = []
        self.checkpoints: Path | None = None

    def embed_views(self, views: Tensor) -> Tensor:
        """Embed bytes ``(N, 3, H, W)``, or features ``(N, F)`` of a frozen backbone, into ``(N, D)``."""
        if views.ndim == 2:
            return embed_features(self.model, views)
        if self._network is None:
            self._network = self._compiled() if self.compile_passes else self.model.__call__
        return self._network(self._pixels(views))

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        # On CPUs the compiler lays out convolutions channels last by itself, which some networks must not be.
        options: dict[str, Any] | None = None if self.layout == torch.channels_last else {"layout_optimization": False}
        # The function, not the module: that one would change the names in the state dict.
        compiled: Callable[[Tensor], Tensor] = torch.compile(self.model.forward, options=options)
        return compiled

    def embed_views_with_maps(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embed bytes ``(N, 3, H, W)`` into ``(N, D)``, and return the feature maps too, as ``embed_with_maps``."""
        return embed_with_maps(self.model, self._pixels(views))

    def _pixels(self, views: Tensor) -> Tensor:
        pixels: Tensor = self.normalize(views)
        return pixels.contiguous(memory_format=self.layout)

    def of_all_ranks(self, tensor: Tensor) -> Tensor:
        """Join the rows of all processes, in an order that is the same in all tensors; gradients flow to each.

        Args:
            tensor: ``(N, ...)``, of this process's images of the batch, as many rows for each.
        """
        if self.trainer.world_size == 1:
            return tensor
        loader: Any = self.trainer.train_dataloader
        images = loader.batch_sampler.images_of_ranks(self.trainer.world_size)
        of_each = len(tensor) // images[self.trainer.global_rank]
        lacking = (images[0] - images[self.trainer.global_rank]) * of_each  # rank 0 has most; all must send as much
        padded = functional.pad(tensor, [0, 0] * (tensor.ndim - 1) + [0, lacking]) if lacking else tensor
        gathered = self.all_gather(padded, sync_grads=tensor.requires_grad)
        return torch.cat([rows[: count * of_each] for rows, count in zip(gathered, images, strict=True)])

    def by_all_ranks(self, embed: Callable[[ImageSet], np.ndarray], images: ImageSet) -> np.ndarray:
        """Embed images, each process its share of them, and give all of them to each.

        Args:
            embed: gives float32 ``(N, D)``.
            images: the images.

        Returns:
            float32 ``(len(images), D)``, equal on all processes.
        """
        processes = self.trainer.world_size
        if processes == 1:
            return embed(images)
        share = -(-len(images) // processes)
        rows = np.arange(share) * processes + self.trainer.global_rank
        rows %= len(images)  # the first ones again where the last processes lack some
        mine = torch.from_numpy(embed(images.subset(rows))).to(self.trainer.strategy.root_device)
        gathered: Tensor = self.all_gather(mine)  # type: ignore[assignment]
        return gathered.transpose(0, 1).flatten(0, 1)[: len(images)].cpu().numpy()

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1 and torch.cuda.is_available():  # torch synchronises BatchNorm on GPUs only
            # Lightning's own conversion would lose the activations inside timm's normalisation layers.
            self.model = convert_sync_batchnorm(self.model)

    def configure_optimizers(self) -> Any:
        # Neither biases and normalisation layers nor what the architecture names, such as position embeddings.
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
        # One pass over the weights instead of a dozen; Lightning clips no gradients for it in mixed precision.
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
        # A seed per epoch (for dropout and the like) makes a resumed run equal to an uninterrupted one. At the first
        # batch, since before it the loader draws a number, and not in the same order when a run is resumed.
        if batch_idx == 0:
            torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)

    def on_train_epoch_start(self) -> None:
        set_epoch = getattr(self.loss, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.current_epoch, self.trainer.max_epochs)
        if self.frozen:
            self.model.eval()  # neither statistics nor dropout change what the head is given
        elif self.asked.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def on_after_backward(self) -> None:
        if self.current_epoch >= self.asked.warmup_epochs:
            return
        # Dropped here rather than never computed: several processes wait for the gradient of every parameter.
        head = {id(parameter) for parameter in head_of(self.model).parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in head:
                parameter.grad = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.start_of:
            return
        strength = self.asked.towards_start * float(self.trainer.optimizers[0].param_groups[0]["lr"])
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if name in self.start_of:
                    weight.lerp_(self.start_of[name], min(strength, 1.0))

    def draw_to(self, start: Mapping[str, Tensor]) -> None:
        """Have the backbone drawn back to these weights, a model's state dict, if that was asked for."""
        if self.asked.towards_start:
            head = {id(parameter) for parameter in head_of(self.model).parameters()}
            self.start_of = {
                name: start[name].to(weight.device)
                for name, weight in self.model.named_parameters()
                if id(weight) not in head
            }

    def _only_head(self) -> None:
        head = {id(parameter) for parameter in head_of(self.model).parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in head)

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch + 1
        if self.validation is None or (epoch % self.asked.validate_every and epoch != self.trainer.max_epochs):
            return
        measured = self.measure_validation()
        for name, value in measured.items():
            self.log(f"validation/{name}", value, prog_bar=name == self.measured, rank_zero_only=True)
        self.note(epoch, measured)

    def note(self, epoch: int, measured: Mapping[str, float]) -> None:
        """Note what was measured after an epoch, 0 for before the first, and keep the weights if they are the best.

        Best is the later of equals, but no epoch of training is better than none that is as good.
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
        """Raise a DivergedError where weights are no longer finite."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            raise DivergedError(f"Training diverged: weights are no longer finite. Lower lr, which is {self.asked.lr}.")

    def measure_validation(self) -> dict[str, float]:
        """Embed the validation images with the model as it is, and return what :meth:`judge` says of them."""
        assert self.validation is not None
        self.require_finite()
        return self.judge(self._embed_validation(self.validation), facts_of(self.model).metric)

    def _embed_validation(self, images: ImageSet) -> np.ndarray:
        if not self.on_features:
            return self.by_all_ranks(partial(embed, self.model, progress=False), images)
        features = torch.from_numpy(self.pooled_validation()).to(self.device)
        with torch.inference_mode():
            return embed_features(self.model, features).float().cpu().numpy()

    def pooled_validation(self, progress: bool = False) -> np.ndarray:
        """Return the pooled features ``(N, F)`` of the validation images; those of a frozen backbone are kept."""
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
        """Return measures as a log says them: "Recall@1 97.71 %, MAP@R 81.46 %"."""
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
    """Return the layout to train in: channels last, in which convolutions on CPUs and tensor cores are fastest.

    Not for strided 1x1 convolutions of few channels, such as RepVGG's first, on CPUs: in that layout oneDNN writes past
    its memory when it computes their gradients, and crashes or gets them wrong (uxlfoundation/oneDNN, issue 6035).
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
    """Return a model's weights as safetensors takes them: on the CPU, and copied, since modules may share memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
