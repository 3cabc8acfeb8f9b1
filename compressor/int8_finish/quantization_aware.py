"""A short fine-tune of a student for its int8 file: :func:`finish_quantized`."""

from __future__ import annotations

import inspect
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.distillation import distill
from zoo.arguments import DataLike, TeacherLike, require_valid
from zoo.errors import ModelError, OptionError
from zoo.paths import given_path
from zoo.stage import Stage, locking
from zoo.training.defaults import filled
from zoo.training.options import MachineOptions, Training, documented

if TYPE_CHECKING:
    from zoo.models.facts import ModelFacts

log = logging.getLogger(__name__)

FINISH_KEY = "finish_quantized"
"""Key of the fine-tune's options in a fine-tuned student's facts, next to the options of its distillation."""


@locking
@documented
def finish_quantized(
    student: str | Path,
    teacher: TeacherLike,
    data: DataLike,
    out: str | Path,
    *,
    scheme: str = "u8s8",
    per_channel: bool = True,
    weight_bits: int = 8,
    loss: str | None = None,
    epochs: int = 4,
    lr: float | None = None,
    split: str | None = None,
    validation: float | None = None,
    continuous_labels: str | Path | None = None,
    label_metric: str | None = None,
    columns: dict[str, str] | None = None,
    max_unreadable: int | None = None,
    views: int | None = None,
    batch_size: int | None = None,
    augment: str | None = None,
    min_crop: float | None = None,
    precision: str | None = None,
    devices: str | int = MachineOptions.devices,
    num_nodes: int = MachineOptions.num_nodes,
    workers: int | None = MachineOptions.workers,
    seed: int = MachineOptions.seed,
) -> Path:
    """Fine-tune a student for int8, with weights and activations rounded, and save it as a model folder.

    The student learns from its teacher as before, while weights and activations are rounded as the static quantiser
    will round them; see ``compressor.int8_finish.fake_quantization``. BatchNorm statistics do not change. The ranges of
    the activations start from 256 training images, follow the batches, and stay fixed in the last quarter of the
    epochs. The epoch with the highest Recall@1 of the rounded student on the validation images is kept (nDCG@10 for
    continuous labels without classes), the measure that also judges its int8 file. The saved model is an ordinary float
    model: quantise it like any other. Called again with the same options, an interrupted run resumes from its last
    complete epoch, and a finished one is reused.

    Args:
        student: a model folder written by distill.
        teacher: the student's teacher, of any kind that distill takes.
        data: training data, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder for the fine-tuned student.
        scheme: activations: u8s8 (asymmetric, uint8 or int8) or s8s8 (symmetric int8).
        per_channel: one weight scale per output channel; false for one per layer.
        weight_bits: 8, or 7 for x86 without VNNI, where int8 files have such weights.
        loss: as in distill; null for the student's own. A loss of your own, module:Class, must be named again: what a
            folder names is not imported.
        epochs: passes over the training images.
        lr: learning rate; null for half of the student's.
        split: rule that divides the classes; null for the student's own, as for the options below.
        continuous_labels: as in distill; null for the student's own, or for those of data that are already divided and
            labelled.
        batch_size: images in a batch, over all devices; each counts once per view.
        min_crop: smallest fraction of an image's area that a view may show.
        precision: Lightning's precision for the student.
        seed: seed for batches and augmentation.

    Returns:
        The finished student's folder.

    Raises:
        OptionError: the student's folder names a loss that is not part of this project, and ``loss`` is None.
        UserError: the student, the teacher, the data or an option is unusable.
    """
    given = dict(locals())
    require_valid(given)

    from zoo.files import digest
    from zoo.models.facts import facts_of
    from zoo.models.folder import load_model

    model = load_model(student)
    facts = facts_of(model)
    require_known_loss(student, facts, loss)
    options = _options(facts, given)

    from zoo.data import load_data

    asked = Training.of(options)
    splits = load_data(data, **asked.data.division)

    from zoo.teachers.opening import open_teacher

    source = open_teacher(teacher, options["teacher_precision"])
    digests = {"data_digest": splits.digest, "teacher_digest": source.digest}
    digests["student_digest"] = digest(given_path(student) / "model.safetensors")[:16]
    stage = Stage.open(
        out, finish_quantized, given | options | {"data": splits.name, "teacher": source.name}, **digests
    )
    if stage.finished:
        return stage.folder

    import lightning

    from compressor.int8_finish.fake_quantization import FakeQuantization
    from compressor.int8_finish.learner import QuantizedLearner
    from compressor.transfer import require_transferable, transfer
    from zoo.models.facts import set_facts
    from zoo.training.fitting import finish
    from zoo.versions import versions

    require_transferable(source, splits, asked)
    if facts.teacher is not None and facts.teacher.get("digest") != source.digest:
        log.warning("the student was distilled from teacher %s, not from %s", facts.teacher.get("name"), source.name)
    lightning.seed_everything(seed, verbose=False)
    quantization = FakeQuantization(model, scheme, per_channel, weight_bits)
    make_learner = partial(QuantizedLearner, quantization=quantization)
    learner, measured = transfer(model, source, splits, stage.folder, asked, make_learner)
    quantization.remove()
    measured["validation as int8"] = measured.pop("validation")
    set_facts(
        model,
        replace(
            facts,
            loss=options["loss"],
            options=facts.options | {FINISH_KEY: stage.options},
            data={"name": splits.name, **splits.protocol},
            teacher={"name": source.name, "digest": source.digest},
            measured=measured,
            versions=versions(),
        ),
    )
    finish(learner, stage.folder)
    return stage.folder


def _options(facts: ModelFacts, given: dict[str, Any]) -> dict[str, Any]:
    """Return options of distill: those given, else the student's own, else the defaults."""
    parameters = inspect.signature(distill).parameters
    own = {name: value for name, value in facts.options.items() if name in parameters}
    if _is_labelled(given.get("data")):  # a label file for the rows of a table cannot be read without the table
        own = {name: value for name, value in own.items() if name not in ("continuous_labels", "label_metric")}
    if facts.teacher is None:  # trained on labels: its loss is of another kind, and it may have null for a number
        own = {name: value for name, value in own.items() if name not in ("loss", "loss_options")}
        needed = {name for name, parameter in parameters.items() if "None" not in str(parameter.annotation)}
        own = {name: value for name, value in own.items() if value is not None or name not in needed}
    if given.get("loss") not in (None, own.get("loss")):  # the student's loss_options belong to another loss
        own.pop("loss_options", None)
    options = {name: own.get(name, parameter.default) for name, parameter in parameters.items()}
    options |= {name: value for name, value in given.items() if name in options and value is not None}
    # A student without recorded rates gets those of pretrained weights, because its weights are trained.
    options = filled("distill", options | {"pretrained": True})
    if given["lr"] is None:
        options["lr"] /= 2
    # The student is no longer a network before training: there is no head to fit and no start to average with.
    kept = {"freeze_batchnorm": True, "validate_every": 1, "pretrained": False}
    return options | kept | {"workers": given["workers"]}


def _is_labelled(data: object) -> bool:
    """Return whether data are already divided and have continuous labels."""
    from zoo.data.image_set import DataSplits

    return isinstance(data, DataSplits) and data.train.continuous is not None


def require_known_loss(student: str | Path, facts: ModelFacts, loss: str | None) -> None:
    """Refuse to import a loss that a folder names: only one named by the caller may come from any module.

    Raises:
        OptionError: the student's own loss would be used, but it is not part of this project.
    """
    from compressor.losses import LOSSES

    own = facts.options.get("loss", "relaxed_contrastive")
    if loss is None and facts.teacher is not None and own not in list(LOSSES):
        raise OptionError(
            f"{Path(student) / 'config.json'} names the loss {own!r}, which is not part of this package, so it is "
            "not imported. If you trust it, pass it as loss."
        )


def obstacle_to_finish(student: str | Path, loss: str | None = None) -> str | None:
    """Return why a student cannot be fine-tuned for int8, or None.

    Args:
        student: a model folder.
        loss: the loss to fine-tune it with; None for its own.

    Raises:
        ModelError: the folder is missing or broken.
    """
    from compressor.int8_finish.following import require_unbranched
    from zoo.models.facts import facts_of
    from zoo.models.folder import load_model

    model = load_model(student)
    try:
        require_unbranched(model)
        require_known_loss(student, facts_of(model), loss)
    except (ModelError, OptionError) as error:
        return f"The student cannot be fine-tuned for int8: {error}"
    return None
