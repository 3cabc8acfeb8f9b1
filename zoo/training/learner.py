"""What training a teacher and distilling a student share: rates, schedule, validation, the fit itself, its resume."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import convert_sync_batchnorm
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from zoo.arguments import SCHEDULES
from zoo.data.image_set import ImageSet
from zoo.errors import DivergedError, ModelError, OptionError, first_line, require_known
from zoo.files import alone_in, replacing, write_json
from zoo.losses import CONTINUOUS, labels_of
from zoo.models.embedding import embed, fastest_device, worker_count
from zoo.models.making import embed_with_maps, facts_of, head_of, preprocessing_of, save_model
from zoo.models.precision import bfloat16_is_fast
from zoo.models.preprocessing import Normalize
from zoo.retrieval.label_measures import NDCG_K, measure_by_labels
from zoo.retrieval.measures import measure
from zoo.stage import CHECKPOINTS
from zoo.training.augmentation import Views
from zoo.training.sampling import BatchSampler, DenseTripletSampler, GlobalBatches
from zoo.versions import available_cores

log = logging.getLogger(__name__)

_BEST = "best.safetensors"
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
        lr: learning rate of the model.
        proxy_lr_factor: how many times that rate the loss's proxies learn with.
        weight_decay: of AdamW; not applied to biases and normalisation layers.
        schedule: "cosine" (to zero over the run, after a linear rise over the first 5 %) or "step" (times
            ``step_factor`` every ``step_epochs``).
        step_epochs: see ``schedule``.
        step_factor: see ``schedule``.
        warmup_epochs: epochs at the start that train only the head and the loss's own parameters.
        freeze_batchnorm: keep the statistics of BatchNorm layers as they are.
        validate_every: epochs between two measurements; the last epoch is always measured.
        seed: of batches and views.
        compile: run the model's training passes through torch.compile; feature maps and measurements do not.
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
        lr: float,
        proxy_lr_factor: float,
        weight_decay: float,
        schedule: str,
        step_epochs: int,
        step_factor: float,
        warmup_epochs: int,
        freeze_batchnorm: bool,
        validate_every: int,
        seed: int,
        compile: bool = False,
        by_labels: bool | None = None,
    ) -> None:
        super().__init__()
        require_known("schedule", schedule, SCHEDULES)
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
        self.lr, self.proxy_lr_factor, self.weight_decay = lr, proxy_lr_factor, weight_decay
        self.schedule, self.step_epochs, self.step_factor = schedule, step_epochs, step_factor
        self.warmup_epochs, self.freeze_batchnorm = warmup_epochs, freeze_batchnorm
        self.validate_every, self.seed, self.compile_passes = validate_every, seed, compile
        self._network: Callable[[Tensor], Tensor] | None = None
        self.best: dict[str, Any] = {"epoch": None, self.measured: None}
        self.history: list[dict[str, Any]] = []
        self.checkpoints: Path | None = None

    def embed_views(self, views: Tensor) -> Tensor:
        """Embed bytes ``(N, 3, H, W)`` into ``(N, D)``."""
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
        """Join the rows of all processes, in an order that is the same in all tensors; gradients flow to each."""
        if self.trainer.world_size == 1:
            return tensor
        gathered = self.all_gather(tensor, sync_grads=tensor.requires_grad)
        return gathered.flatten(0, 1)  # type: ignore[union-attr]

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1 and torch.cuda.is_available():  # torch synchronises BatchNorm on GPUs only
            # Lightning's own conversion would lose the activations inside timm's normalisation layers.
            self.model = convert_sync_batchnorm(self.model)

    def configure_optimizers(self) -> Any:
        # Neither biases and normalisation layers nor what the architecture names, such as position embeddings.
        exempt: set[str] = getattr(self.model, "no_weight_decay", set)()
        groups = [
            group | {"lr": self.lr}
            for group in param_groups_weight_decay(self.model, self.weight_decay, no_weight_decay_list=exempt)
        ]
        own = dict(self.loss.named_parameters())
        proxies = [parameter for name, parameter in own.items() if name.endswith("proxies")]
        others = [parameter for name, parameter in own.items() if not name.endswith("proxies")]
        factors = (self.proxy_lr_factor, getattr(self.loss, "loss_lr_factor", 1.0))
        for parameters, times in zip((proxies, others), factors, strict=True):
            groups.append({"params": parameters, "lr": self.lr * times, "weight_decay": self.weight_decay})
        # One pass over the weights instead of a dozen; Lightning clips no gradients for it in mixed precision.
        fused = self.trainer.precision == "32-true"
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=fused)
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(steps // max(self.trainer.max_epochs or 1, 1), 1)

        def factor(step: int) -> float:
            if self.schedule == "step":
                return float(self.step_factor ** (step // (per_epoch * self.step_epochs)))
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
        if self.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def on_after_backward(self) -> None:
        if self.current_epoch >= self.warmup_epochs:
            return
        # Dropped here rather than never computed: several processes wait for the gradient of every parameter.
        head = {id(parameter) for parameter in head_of(self.model).parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in head:
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch + 1
        if self.validation is None or (epoch % self.validate_every and epoch != self.trainer.max_epochs):
            return
        measured = self._measure(self.validation)
        for name, value in measured.items():
            self.log(f"validation/{name}", value, prog_bar=name == self.measured, rank_zero_only=True)
        self.history.append({"epoch": epoch, **measured})
        if self.checkpoints is not None and self.trainer.is_global_zero:
            write_json(self.checkpoints.parent / "validation.json", self.history)
        before = self.best.get(self.chosen_by)
        if before is None or round(measured[self.chosen_by], 6) >= before:
            self.best = {"epoch": epoch} | {name: round(value, 6) for name, value in measured.items()}
            if self.checkpoints is not None and self.trainer.is_global_zero:
                with replacing(self.checkpoints / _BEST) as temporary:
                    save_file(_contiguous(self), temporary)

    def require_finite(self) -> None:
        """Raise a DivergedError where weights are no longer finite."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            raise DivergedError(f"Training diverged: weights are no longer finite. Lower lr, which is {self.lr}.")

    def _measure(self, images: ImageSet) -> dict[str, float]:
        self.require_finite()
        embeddings, metric = embed(self.model, images, progress=False), facts_of(self.model).metric
        if self.measured == "recall_at_1":
            result = measure(embeddings, images, metric)
            return {self.measured: result.recall_at(1), "map_at_r": float(result.average_precision.mean())}
        by_labels = measure_by_labels(embeddings, images, metric)
        return {
            self.measured: by_labels.ndcg_at(NDCG_K),
            f"mean_label_distance_at_{NDCG_K}": by_labels.label_distance_at(NDCG_K),
        }

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


def _contiguous(model: nn.Module) -> dict[str, Tensor]:
    # Copies, since safetensors refuses memory that modules share.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def training_loader(
    images: ImageSet,
    views: Views,
    batch_size: int,
    images_per_class: int,
    use_labels: bool,
    workers: int | None,
    seed: int,
    neighbours: int | None = None,
) -> DataLoader[Any]:
    """Return batches of ``((B, V, 3, H, W) uint8, (B,) indices)``: class-balanced where labels are used.

    Where ``neighbours`` is given, batches are an anchor, as many images with the nearest continuous labels, and others.
    """
    sampler: GlobalBatches
    if neighbours is not None:
        assert images.continuous is not None
        sampler = DenseTripletSampler(images.continuous, batch_size, neighbours, seed)
    else:
        labels = images.labels if use_labels else None
        sampler = BatchSampler(len(images), labels, batch_size, images_per_class, seed)
    if workers is None:
        # On two cores that train as well, a process of its own for the views takes more time than it saves.
        busy = fastest_device().type == "cpu" and available_cores() <= 2
        workers = 0 if busy else worker_count(len(sampler) * 4)
    return DataLoader(views, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def fit(
    learner: Learner,
    loader: DataLoader[Any],
    folder: Path,
    epochs: int,
    precision: str,
    gradient_clip: float | None,
    devices: str | int,
    num_nodes: int,
) -> dict[str, Any]:
    """Train, resuming from ``folder/checkpoints`` where a run was interrupted; leave the best weights in the learner.

    Best is the epoch of the highest measure on the validation images, the later of equals; without validation, the
    last epoch.

    Args:
        precision: Lightning's, or "auto": bf16-mixed where the device multiplies bfloat16 in hardware, else 32-true.

    Returns:
        ``{"epoch": of the best weights, "recall_at_1" or "ndcg_at_10": there, or None}``, and what else was measured.

    Raises:
        Interrupted: the user stopped the run; it can be resumed.
        ModelError: the checkpoint to resume from is broken.
        OptionError: precision, devices or num_nodes that Lightning does not take, torch.compile failed, or another
            process is at work in the folder.
        DivergedError: training diverged.
    """
    learner.checkpoints = folder / CHECKPOINTS
    last = learner.checkpoints / "last.ckpt"
    resumed = last if last.is_file() else None
    best = learner.checkpoints / _BEST
    if resumed:
        log.info("resuming from %s", resumed)
        if best.is_file():
            _read_best(best)  # a broken one is told before epochs are spent
    keep_last = ModelCheckpoint(
        learner.checkpoints, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    if precision == "auto":
        precision = "bf16-mixed" if bfloat16_is_fast(fastest_device()) else "32-true"
    with warnings.catch_warnings():
        # Lightning advises on workers and logging intervals; both are chosen here.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer = lightning.Trainer(
                max_epochs=epochs,
                precision=precision,  # type: ignore[arg-type]
                gradient_clip_val=gradient_clip,
                devices=devices,
                num_nodes=num_nodes,
                use_distributed_sampler=False,
                callbacks=[_AloneInFolder(folder), keep_last, TQDMProgressBar(refresh_rate=5)],
                plugins=[_WholeCheckpoints()],
                logger=CSVLogger(folder, name=None, version=_next_log(folder)),
                log_every_n_steps=1,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
        except (MisconfigurationException, TypeError, ValueError) as error:
            asked = f"precision {precision!r}, devices {devices!r} and num_nodes {num_nodes!r}"
            raise OptionError(f"Lightning cannot train with {asked}: {first_line(error)}") from error
        try:
            trainer.fit(learner, loader, ckpt_path=resumed, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise Interrupted("Interrupted. Run the same command again to go on from the last whole epoch.") from error
        except BackendCompilerFailed as error:
            raise OptionError(f"torch.compile failed ({first_line(error)}) Set compile to false.") from error
    if learner.best["epoch"] is None:
        learner.require_finite()
        return learner.best | {"epoch": epochs}
    learner.load_state_dict(_read_best(best))
    learner.trainer.strategy.barrier()  # the checkpoints may be removed when all have read them
    return learner.best


def _read_best(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read ({error}). Remove its stage's folder to train anew.") from error
    return weights


class _AloneInFolder(Callback):
    """Keeps a second run, begun by mistake while the first is at work, from writing over its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.alone = ExitStack()
        self.folder = folder

    def setup(self, trainer: lightning.Trainer, learner: lightning.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:  # the other ranks belong to it
            self.alone.enter_context(alone_in(self.folder))

    def teardown(self, trainer: lightning.Trainer, learner: lightning.LightningModule, stage: str) -> None:
        self.alone.close()

    def on_exception(
        self, trainer: lightning.Trainer, learner: lightning.LightningModule, error: BaseException
    ) -> None:
        self.alone.close()


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, on any file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
            reason = first_line(error)
            raise ModelError(f"{path} cannot be read ({reason}). Remove it to begin this stage anew.") from error
        return checkpoint


def _next_log(folder: Path) -> str:
    """Return ``log``, or ``log-2`` and so on where a run goes on, since the logger would empty a folder it finds."""
    count = len(list(folder.glob("log*")))
    return "log" if count == 0 else f"log-{count + 1}"


def finish(learner: Learner, folder: Path) -> None:
    """Save the model and remove what was only needed to resume; no process returns before the folder is finished."""
    if learner.trainer.is_global_zero:
        save_model(learner.model, folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    learner.trainer.strategy.barrier()


class Interrupted(KeyboardInterrupt):
    """The user stopped a run that can be resumed."""
