"""Export, with fine-tuning of the student if int8 is refused: :func:`ship`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.shipping import Exported, export_model, files_of, is_litert, require_export_options
from zoo.arguments import TeacherLike, require_valid
from zoo.errors import DivergedError, ModelError, OptionError, RefusedError, UserError, require_known

log = logging.getLogger(__name__)

FINISHED, PARITY = "finished", "parity"
AUTOMATIC_EPOCHS = 4
LAYOUTS = FILES, HUB = ("files", "hub")


def ship(
    model: str | Path,
    out: str | Path | None = None,
    *,
    teacher: TeacherLike | None = None,
    qat_epochs: int | None = None,
    loss: str | None = None,
    layout: str = FILES,
    license: str | None = None,
    report: str | Path | None = None,
    parity: bool = False,
    **options: Any,
) -> Exported:
    """Export a model to ONNX, in one precision or several, int8 chosen by measured recall; or to one file for LiteRT.

    If int8 is refused, the student is fine-tuned by its teacher with int8 rounding in place, and int8 is tried again:
    automatically with precision auto and a teacher, otherwise for ``qat_epochs`` epochs. The fine-tuned student is
    saved in ``finished`` next to the files. Drops are still relative to the original student.

    Args:
        model: a model folder.
        out: the .onnx or .tflite file to write, or a folder if there are several; null for the folder export next to
            the model's. With layout hub, the folder to write.
        teacher: teacher for fine-tuning the student: a model folder, an .onnx or .npz file; in Python also a torch
            module.
        qat_epochs: epochs of fine-tuning if int8 would otherwise be refused; null for 4 with precision auto and a
            teacher, else none; 0 for none.
        loss: loss for fine-tuning; null for the student's own. A loss of your own, module:Class, must be named again.
        layout: files (only ONNX files) or hub (one folder that timm, transformers, sentence-transformers,
            transformers.js, fastembed and onnxruntime open, with a card).
        license: with layout hub, the identifier of the model's licence, such as apache-2.0; null if it is not settled
            yet, which publish refuses.
        report: with layout hub, report.json of the model, for the figures on its card; null for the one of the run
            that the model belongs to.
        parity: add a folder parity: images, their expected vectors, and programs that check a runtime.
        options: options of export_model.

    Returns:
        The files, and what was tried.

    Raises:
        RefusedError: no int8 file meets the budget, also if the student cannot be fine-tuned or fine-tuning diverged;
            other precisions are written.
        UserError: the model, the teacher, the data or an option is unusable.
    """
    require_valid({"qat_epochs": qat_epochs})
    require_known("layout", layout, LAYOUTS)
    litert = out is not None and is_litert(out)
    if litert and (parity or layout == HUB or qat_epochs or teacher is not None or loss is not None):
        raise OptionError(
            f"{Path(out).name} is a file alone, of the student as it is. "  # type: ignore[arg-type]
            "Leave parity, layout, teacher, loss and qat_epochs out."
        )
    if parity and options.get("input", "pixels") != "pixels":
        raise OptionError("A parity pack tests files that take pixels. Leave out input, or parity.")
    if layout == HUB:
        if teacher is not None or qat_epochs or loss is not None:
            raise OptionError(
                "layout hub ships a student as it is. Fine-tune it first, with layout files, and export the student in "
                f"{FINISHED} then."
            )
        if out is None:
            raise OptionError("layout hub writes a folder to give away. Name it: --out FOLDER.")
        from export.hub.folder import write_hub

        return write_hub(model, out, license=license, report=report, parity=parity, **options)
    for name, given in (("license", license), ("report", report)):
        if given is not None:
            raise OptionError(f"{name} is for the card of layout hub. Add --layout hub.")
    if qat_epochs and teacher is None:
        raise OptionError(f"qat_epochs {qat_epochs} needs a teacher to learn from. Give --teacher.")
    precision, takes = options.get("precision", "fp32"), options.get("input", "pixels")
    target = options.get("target", "x86")
    asked = require_export_options(precision, takes, target)
    automatic = qat_epochs is None
    epochs = AUTOMATIC_EPOCHS if automatic and "auto" in asked and teacher is not None else qat_epochs
    if litert:
        return export_model(model, out, **options)
    files = files_of(model, out, precision, takes)
    if parity:
        from export.parity.pack import require_pack_place

        require_pack_place(_pack_of(files))
    if not epochs:
        return _exported(model, out, files, parity, options)
    assert teacher is not None
    require_int8(asked, epochs)

    from compressor.int8_finish.quantization_aware import finish_quantized, obstacle_to_finish
    from export.int8.schemes import weight_bits
    from zoo.teachers.opening import open_teacher
    from zoo.versions import has_vnni

    open_teacher(teacher)  # report a mistake in it before the search, and even if int8 is not refused
    obstacle = obstacle_to_finish(model, loss)
    if obstacle is not None and not automatic:
        log.warning("%s", obstacle)
    try:
        return _exported(model, out, files, parity, options)
    except RefusedError as error:
        refused = error
    if obstacle is not None:
        raise RefusedError(refused.found, obstacle, refused.content, refused.network)
    leave_out = " (--qat_epochs 0 leaves this out)" if automatic else ""
    log.info("%s Fine-tuning the student for int8 for %d epochs%s.", refused.found, epochs, leave_out)

    shared = ("split", "validation", "continuous_labels", "label_metric", "columns", "max_unreadable", "seed")
    try:
        finished = finish_quantized(
            model,
            teacher,
            options["data"],
            files["int8"].parent / FINISHED,
            scheme="s8s8" if target == "arm64" else "u8s8",
            weight_bits=weight_bits(target, has_vnni()),
            loss=loss,
            epochs=epochs,
            **{name: options[name] for name in shared if name in options},
        )
    except UserError as error:
        if not automatic and not isinstance(error, DivergedError):
            raise  # the user asked for fine-tuning; if it is automatic, the refusal matters more than its failure
        raise RefusedError(refused.found, f"Fine-tuning failed: {error}", refused.content, refused.network) from error
    options["precision"] = next(word for word in asked if word in ("int8", "auto"))
    again = export_model(finished, files["int8"], **options, before=refused)
    if parity:
        _write_pack(files)
    return Exported(files, again.candidates)


def _exported(
    model: str | Path, out: str | Path | None, files: dict[str, Path], parity: bool, options: dict[str, Any]
) -> Exported:
    """Export, and write the parity pack of the files; if int8 is refused, of the others."""
    try:
        exported = export_model(model, out, **options)
    except RefusedError:
        others = {precision: file for precision, file in files.items() if precision != "int8"}
        if parity and others:
            try:
                _write_pack(others)
            except ModelError as error:  # the refusal matters more
                log.warning("%s", error)
        raise
    if parity:
        _write_pack(files)
    return exported


def _pack_of(files: dict[str, Path]) -> Path:
    return next(iter(files.values())).parent / PARITY


def _write_pack(files: dict[str, Path]) -> None:
    from export.parity.pack import write_parity

    write_parity(files, _pack_of(files))


def require_int8(asked: Sequence[str], qat_epochs: int) -> None:
    """Refuse fine-tuning for int8 if no int8 file is asked for.

    Raises:
        OptionError: the precisions have neither int8 nor auto.
    """
    if {"int8", "auto"}.isdisjoint(asked):
        raise OptionError(f"qat_epochs {qat_epochs} fine-tunes a student for int8. Add --precision int8 or auto.")
