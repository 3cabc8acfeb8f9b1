"""The fit: batches, Lightning's trainer, resuming, and the finished folder."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils.data import DataLoader

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError, first_line
from zoo.models.embedding import bfloat16_is_fast, fastest_device, worker_count
from zoo.models.folder import save_model
from zoo.progress import are_bars_shown
from zoo.stage import CHECKPOINTS
from zoo.training.allocation import keep_freed_memory
from zoo.training.batches.augmentation import Views
from zoo.training.batches.features import Features
from zoo.training.batches.sampling import BatchSampler, DenseTripletSampler, GlobalBatches
from zoo.training.checkpoints import BEST, LAST, WholeCheckpoints, read_best, remove_checkpoints
from zoo.training.learner import Learner
from zoo.training.options import Training
from zoo.training.start import Start
from zoo.training.story import progress_of_training, told
from zoo.versions import available_cores

log = logging.getLogger(__name__)


def training_loader(
    images: ImageSet, views: Views | Features, asked: Training, anchored: bool = False
) -> DataLoader[Any]:
    """Return a loader of batches ``((B, V, 3, H, W) uint8, (B,) indices)``, class-balanced if labels are used.

    With ``images_per_class`` 0, batches are random even if there are labels. With ``anchored``, a batch is an anchor,
    the ``neighbours`` images with the nearest continuous labels, and others.
    """
    batches, seed, workers = asked.batches, asked.machine.seed, asked.machine.workers
    sampler: GlobalBatches
    if anchored:
        assert images.continuous is not None
        sampler = DenseTripletSampler(images.continuous, batches.batch_size, batches.neighbours, seed)
    else:
        labels = images.labels if asked.data.use_labels and batches.images_per_class else None
        sampler = BatchSampler(len(images), labels, batches.batch_size, max(batches.images_per_class, 1), seed)
    if isinstance(views, Features):
        workers = 0  # nothing to decode
    if workers is None:
        # On two cores that also train, worker processes take more time than they save.
        busy = fastest_device().type == "cpu" and available_cores() <= 2
        workers = 0 if busy else worker_count(len(sampler) * 4)
    return DataLoader(views, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def fit(
    learner: Learner,
    loader: DataLoader[Any],
    folder: Path,
    asked: Training,
    start: Start | None = None,
) -> dict[str, Any]:
    """Train, or resume an interrupted run from ``folder/checkpoints``; load the best weights into the learner.

    The best epoch has the highest measure on the validation images; of equal ones, it is the later. Without
    validation images it is the last epoch.

    Args:
        asked: options; ``optimisation`` and ``machine`` are used.
        start: for a pretrained network: measures it before training (epoch 0) and averages weights with it.

    Returns:
        ``{"epoch": of the best weights, "recall_at_1" or "ndcg_at_10": of that epoch, or None}`` and its other
        measures; with a start, also the measures of the network before training and of averaged weights.

    Raises:
        Interrupted: the user stopped the run; it can be resumed.
        ModelError: the checkpoint to resume from is broken.
        OptionError: Lightning does not take precision, devices or num_nodes; or torch.compile failed.
        DivergedError: training diverged.
    """
    if fastest_device().type == "cpu":
        keep_freed_memory()
    learner.checkpoints = folder / CHECKPOINTS
    last = learner.checkpoints / LAST
    resumed = last if last.is_file() else None
    best = learner.checkpoints / BEST
    if resumed:
        log.info("resuming from %s", resumed)
        if best.is_file():
            read_best(best)  # report a broken file before spending epochs
    first: list[Callback] = [start] if start is not None else []
    keep_last = ModelCheckpoint(
        learner.checkpoints, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    optimisation, machine = asked.optimisation, asked.machine
    precision = machine.precision
    if precision == "auto":
        precision = "bf16-mixed" if bfloat16_is_fast(fastest_device()) else "32-true"
    with warnings.catch_warnings():
        # Lightning advises on workers and logging intervals; both are chosen here.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer = lightning.Trainer(
                default_root_dir=folder,  # else Lightning asks for the working directory, which may be gone
                max_epochs=optimisation.epochs,
                precision=precision,  # type: ignore[arg-type]
                gradient_clip_val=optimisation.gradient_clip,
                devices=machine.devices,
                num_nodes=machine.num_nodes,
                use_distributed_sampler=False,
                callbacks=[*first, keep_last, progress_of_training()],
                plugins=[WholeCheckpoints()],
                logger=CSVLogger(folder, name=None, version=_next_log(folder)),
                log_every_n_steps=1,
                enable_model_summary=False,
                enable_progress_bar=are_bars_shown(),  # otherwise Lightning adds its own
                num_sanity_val_steps=0,
            )
        except (MisconfigurationException, TypeError, ValueError) as error:
            given = f"precision {precision!r}, devices {machine.devices!r} and num_nodes {machine.num_nodes!r}"
            raise OptionError(f"Lightning cannot train with {given}: {first_line(error)}") from error
        try:
            trainer.fit(learner, loader, ckpt_path=resumed, weights_only=True)
        except SystemExit as error:  # what Lightning raises for Ctrl-C
            raise Interrupted("Interrupted. Run the same command again to resume at the last whole epoch.") from error
        except BackendCompilerFailed as error:
            raise OptionError(f"torch.compile failed ({first_line(error)}) Set compile to false.") from error
    if learner.best["epoch"] is None:
        learner.require_finite()
        log.info(told(learner, optimisation.epochs))
        return learner.best | {"epoch": optimisation.epochs}
    learner.load_state_dict(read_best(best))
    learner.trainer.strategy.barrier()  # all must have read the checkpoints before they are removed
    if start is not None:
        learner.to(learner.trainer.strategy.root_device)  # for measuring; the trainer left it on the CPU
    averaged = start.average(learner) if start is not None and optimisation.average_start else {}
    if start is not None and learner.best["epoch"] == 0:
        start.refit(learner)
    log.info(told(learner, optimisation.epochs, start))
    return learner.best | ({} if start is None else start.facts()) | ({"average": averaged} if averaged else {})


def _next_log(folder: Path) -> str:
    """Return ``log``, or ``log-2`` and so on for a resumed run, since the logger empties an existing folder."""
    count = len(list(folder.glob("log*")))
    return "log" if count == 0 else f"log-{count + 1}"


def finish(learner: Learner, folder: Path) -> None:
    """Save the model and remove the checkpoints; no process returns before the folder is finished."""
    if learner.trainer.is_global_zero:
        save_model(learner.model, folder)
        remove_checkpoints(folder / CHECKPOINTS)
    learner.trainer.strategy.barrier()


class Interrupted(KeyboardInterrupt):
    """The user stopped a run that can be resumed."""
