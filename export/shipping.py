"""Export a model to the files that ship, in one or several precisions: :func:`export_model`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.arguments import DataLike, ModelLike, require_valid
from zoo.errors import OptionError, RefusedError, require_known
from zoo.extras import require_extra
from zoo.files import require_writable
from zoo.paths import given_path
from zoo.training.options import DataOptions, documented

PRECISIONS = ("fp32", "fp16", "int8", "auto")
CANDIDATES = "candidates.json"


@dataclass(frozen=True, eq=False, repr=False)
class Exported:
    """What an export wrote.

    Attributes:
        files: the ONNX file of each precision: "fp32", "fp16", "int8".
        candidates: content of ``candidates.json``; None if int8 was not asked for.
    """

    files: dict[str, Path]
    candidates: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Exported({', '.join(f'{precision}: {file}' for precision, file in self.files.items())})"


@documented
def export_model(
    model: ModelLike,
    out: str | Path | None = None,
    *,
    precision: str = "fp32",
    input: str = "pixels",
    data: DataLike | None = None,
    split: str = DataOptions.split,
    validation: float = DataOptions.validation,
    continuous_labels: str | Path | None = DataOptions.continuous_labels,
    label_metric: str = DataOptions.label_metric,
    columns: dict[str, str] | None = DataOptions.columns,
    target: str = "x86",
    max_drop: float | None = 0.005,
    budget_by: str = "mean",
    calibration_images: int = 256,
    judged_images: int = 6000,
    max_unreadable: int = DataOptions.max_unreadable,
    latency_runs: int = 50,
    seed: int = 0,
    before: RefusedError | None = None,
) -> Exported:
    """Export a model to ONNX, in one precision or several, int8 chosen by measured recall; or to one file for LiteRT.

    fp32 is compared with the torch model, as in ``to_onnx``. int8 is calibrated on training images. It is judged on
    validation classes, which are training classes held out, and on training images not used for calibration, and
    refused if it loses more than the budget. ``candidates.json`` next to the files records what was tried.

    A name that ends in .tflite asks for a LiteRT file, in fp32 or int8, with metadata for MediaPipe. It takes pixels
    that the caller has resized and cropped. With data it is judged in the same way, in fp32 too.

    Args:
        model: a model folder; in Python also a timm model in memory.
        out: the .onnx or .tflite file, or a folder for several; null for the folder export next to the model's.
        precision: fp32, fp16, int8 (the usual scheme for network and target) or auto (the safest and fastest int8
            scheme that keeps recall, with blocks in float if necessary); several separated by commas.
        input: pixels (uint8 images of any size, preprocessing inside) or tensor (preprocessing left to the caller).
        data: for int8: the training data, such as folder:PATH; see docs/data.md.
        validation: fraction of the training classes held out to judge int8; the same as in training.
        target: where int8 will run: x86 (with VNNI if this processor has it), x86-vnni, arm64 or web.
        max_drop: largest drop of Recall@1 below fp32's, as a fraction, on the validation classes and on all judged
            images; null for no limit.
        budget_by: what must stay within max_drop: mean (the mean drop) or interval (also the upper end of its 95 %
            interval on all judged images).
        calibration_images: training images that calibrate int8, balanced over classes.
        judged_images: largest number of images that judge int8: validation images first, then training images that were
            not used for calibration.
        latency_runs: timed runs per int8 candidate; 0 for none.
        seed: seed for the choice of images and the bootstrap.
        before: after fine-tuning: the refusal before it. Drops are relative to its fp32, and its candidates stay on
            record.

    Returns:
        The files, and what was tried.

    Raises:
        RefusedError: no int8 file meets the budget; other precisions are written.
        UserError: the model, the data or an option is unusable.
    """
    require_valid({"max_unreadable": max_unreadable, "latency_runs": latency_runs, "seed": seed, "max_drop": max_drop})
    require_valid({"calibration_images": calibration_images, "validation": validation})
    asked = require_export_options(precision, input, target, budget_by)
    divided = (split, validation, continuous_labels, label_metric, columns)
    if out is not None and is_litert(out):
        return _litert(
            *(model, given_path(out), precision, input, data, divided),
            max_drop=max_drop,
            budget_by=budget_by,
            calibration_images=calibration_images,
            judged_images=judged_images,
            max_unreadable=max_unreadable,
            seed=seed,
        )
    files = files_of(model, out, precision, input)
    int8 = "int8" in files
    if int8:
        _require_data(precision, data)
    require_writable(next(iter(files.values())).parent)
    from export.onnx.fp32 import write_fp32
    from export.onnx.tracing import trace_model
    from export.onnx.writing import some_images, write_fp16, write_int8
    from zoo.data import load_data

    splits = None if data is None else load_data(data, *divided)
    traced = trace_model(model)
    shown = some_images(splits)
    if "fp32" in files:
        write_fp32(traced, files["fp32"], shown, input)
    if "fp16" in files:
        write_fp16(traced, files["fp16"], shown, input)
    if not int8:
        return Exported(files)
    from export.int8.selection import choose_int8
    from zoo.files import write_json

    assert splits is not None
    record = files["int8"].parent / CANDIDATES

    def save(content: dict[str, Any]) -> None:
        write_json(record, content)

    try:
        chosen = choose_int8(
            traced,
            splits,
            search="auto" in asked,
            target=target,
            max_drop=max_drop,
            budget_by=budget_by,
            calibration_images=calibration_images,
            judged_images=judged_images,
            max_unreadable=max_unreadable,
            latency_runs=latency_runs,
            seed=seed,
            before=before,
            save=save,
        )
    except RefusedError:
        files["int8"].unlink(missing_ok=True)  # an older file must not pass for this one
        raise
    write_int8(traced, chosen, files["int8"], input)
    return Exported(files, chosen.content)


def is_litert(out: str | Path) -> bool:
    """Return whether a file name asks for LiteRT."""
    return given_path(out).suffix == ".tflite"


def _litert(
    model: ModelLike,
    out: Path,
    precision: str,
    input: str,
    data: DataLike | None,
    divided: tuple[Any, ...],
    **options: Any,
) -> Exported:
    """Check the options of a LiteRT file and write it; see :func:`export.litert.shipping.write_litert`."""
    if input != "pixels":
        raise OptionError(f"{out.name} takes pixels that the caller has resized. Leave input out.")
    if precision not in ("fp32", "int8"):
        raise OptionError(f"{out.name} is one file, in fp32 or int8; precision is {precision}. Ask for one of the two.")
    if precision == "int8":
        _require_data(precision, data)
    require_writable(out.parent)
    require_extra("litert", f"Export to {out.name}")
    from export.litert.shipping import write_litert
    from zoo.data import load_data

    splits = None if data is None else load_data(data, *divided)
    write_litert(model, out, precision, splits, **options)
    return Exported({precision: out})


def _require_data(precision: str, data: DataLike | None) -> None:
    if data is None:
        raise OptionError(f"Precision {precision} needs data to calibrate and judge on. Give --data.")


def require_export_options(precision: str, input: str, target: str, budget_by: str = "mean") -> list[str]:
    """Return the list of precisions asked for.

    Raises:
        OptionError: unknown precision, input, target or budget_by, or both int8 and auto.
    """
    from export.int8.budget import BUDGET_BY
    from export.int8.schemes import TARGETS
    from export.onnx.tracing import INPUTS

    require_known("input", input, INPUTS)
    require_known("target", target, TARGETS)
    require_known("budget_by", budget_by, BUDGET_BY)
    return _asked(precision)


def _asked(precision: str) -> list[str]:
    asked = [word.strip() for word in precision.split(",")]
    for word in asked:
        require_known("precision", word, PRECISIONS)
    if {"int8", "auto"} <= set(asked):
        raise OptionError("Precision int8 is one scheme; auto chooses among several. Ask for one of the two.")
    return asked


def files_of(model: ModelLike, out: str | Path | None, precision: str, input: str = "pixels") -> dict[str, Path]:
    """Return where :func:`export_model` writes each precision: "fp32", "fp16", "int8"."""
    kinds = ["int8" if word == "auto" else word for word in _asked(precision)]
    out = None if out is None else given_path(out)
    if out is not None and out.suffix == ".onnx":
        if len(kinds) > 1:
            raise OptionError(f"{out} is one file for {len(kinds)} precisions. Give a folder, or one precision.")
        return {kinds[0]: out}
    if out is not None and re.fullmatch(r"\.[A-Za-z]\w*", out.suffix) and not out.is_dir():
        raise OptionError(f"{out} ends in neither .onnx nor .tflite. Give a name that does, or a folder.")
    if out is None:
        if not isinstance(model, str | Path):
            raise OptionError("A model in memory has no folder to write to. Give out.")
        out = given_path(model).parent / "export"
    ending = "" if input == "pixels" else f"-{input}"
    return {kind: out / f"model{'' if kind == 'fp32' else f'-{kind}'}{ending}.onnx" for kind in kinds}
