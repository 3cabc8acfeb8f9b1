"""From a model to the files that ship, in the precisions asked for: :func:`export_model`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arguments import DataLike, ModelLike
from zoo.errors import ModelError, OptionError, RefusedError, did_you_mean

if TYPE_CHECKING:
    from export.selection import Chosen
    from export.tracing import Traced
    from zoo.data import DataSplits

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8", "auto")
CANDIDATES = "candidates.json"


@dataclass(frozen=True, eq=False)
class Exported:
    """What an export wrote.

    Attributes:
        files: the ONNX file of each precision: "fp32", "fp16", "int8".
        candidates: what ``candidates.json`` holds; None where no int8 was asked for.
    """

    files: dict[str, Path]
    candidates: dict[str, Any] | None = None


def export_model(
    model: ModelLike,
    path: str | Path | None = None,
    *,
    precision: str = "fp32",
    input: str = "pixels",
    data: DataLike | None = None,
    split: str = "auto",
    validation: float = 0.2,
    continuous_labels: str | Path | None = None,
    label_metric: str = "euclidean",
    target: str = "x86",
    max_drop: float | None = 0.005,
    calibration_images: int = 256,
    max_unreadable: int = 10,
    latency_runs: int = 50,
    seed: int = 0,
    before: RefusedError | None = None,
) -> Exported:
    """Export a model to ONNX, in one precision or several, int8 chosen by measured recall.

    fp32 is compared with the torch model, as ``to_onnx`` says. int8 is calibrated on training images, measured on
    validation classes, which are training classes held out, and refused where it loses more than the budget. What was
    tried is kept in ``candidates.json`` beside the files.

    Args:
        model: a model folder; in Python also a timm model in memory.
        path: the .onnx file to write, or a folder where there are several; null for the folder export beside the
            model's.
        precision: fp32, fp16, int8 (the usual scheme for network and target) or auto (the fastest int8 of several
            schemes that keeps recall, with blocks left in float where it must be); several with commas between.
        input: pixels (uint8 images of any size, preprocessing inside) or tensor (preprocessing left to the caller).
        data: for int8: what the model was trained on, such as folder:PATH; see docs/data.md.
        split: how classes are divided: auto, given, first-half, even-odd, all-train, all-test or list:FILE.
        validation: fraction of the training classes held out to judge int8 on; the same as in training.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image; see docs/data.md.
        label_metric: how vectors in that file are compared: euclidean or cosine.
        target: what int8 will run on: x86, arm64 or web.
        max_drop: how far Recall@1 may fall below fp32's on the validation classes, as a fraction; null for no limit.
        calibration_images: how many training images int8 is calibrated on, balanced over classes.
        max_unreadable: how many unreadable images are reported and left out before the run stops.
        latency_runs: how often each int8 candidate is timed; 0 for never.
        seed: of the choice of images, and of bootstrap samples.
        before: where the model was finished after a refusal, that refusal: drops are against its fp32, and what was
            tried then stays on record.

    Returns:
        The files, and what was tried.

    Raises:
        RefusedError: no int8 file is inside the budget; other precisions are written.
        UserError: model, data or options that cannot work.
    """
    asked = _asked(precision)
    files = files_of(model, path, precision, input)
    int8 = "int8" in files
    if int8 and data is None:
        raise OptionError(f"Precision {precision} needs data to calibrate and judge on. Give --data.")
    from export.graph import write_fp32
    from export.quantization import fits_float16, to_fp16
    from export.tracing import INPUTS, trace_model
    from zoo.data import load_data

    if input not in INPUTS:
        raise OptionError(f"Unknown input {input!r}; known are {' and '.join(INPUTS)}.{did_you_mean(input, INPUTS)}")
    splits = None if data is None else load_data(data, split, validation, continuous_labels, label_metric)
    traced = trace_model(model)
    if "fp32" in files:
        write_fp32(traced, files["fp32"], some_images(splits), input)
    if "fp16" in files:
        if not fits_float16(traced.graphs.network):
            raise ModelError(f"{traced.name} has weights beyond float16's range (65504). Ship fp32 or int8.")
        network = to_fp16(traced.graphs.network)
        _write(traced, replace(traced.graphs, network=network), files["fp16"], input, {"precision": "fp16"})
    if not int8:
        return Exported(files)
    from export.selection import choose_int8
    from zoo.files import write_json

    assert splits is not None
    record = files["int8"].parent / CANDIDATES

    def save(content: dict[str, Any]) -> None:
        write_json(record, content)

    chosen = choose_int8(
        traced,
        splits,
        search="auto" in asked,
        target=target,
        max_drop=max_drop,
        calibration_images=calibration_images,
        max_unreadable=max_unreadable,
        latency_runs=latency_runs,
        seed=seed,
        before=before,
        save=save,
    )
    _write_int8(traced, chosen, splits, files["int8"], input)
    return Exported(files, chosen.content)


def _asked(precision: str) -> list[str]:
    asked = [word.strip() for word in precision.split(",")]
    for word in asked:
        if word not in PRECISIONS:
            raise OptionError(
                f"Unknown precision {word!r}; known are {', '.join(PRECISIONS)}.{did_you_mean(word, PRECISIONS)}"
            )
    if {"int8", "auto"} <= set(asked):
        raise OptionError("Precision int8 is one scheme and auto chooses among several. Give one of them.")
    return asked


def files_of(model: ModelLike, path: str | Path | None, precision: str, input: str = "pixels") -> dict[str, Path]:
    """Return where :func:`export_model` writes each precision: "fp32", "fp16", "int8"."""
    kinds = ["int8" if word == "auto" else word for word in _asked(precision)]
    if path is not None and Path(path).suffix == ".onnx":
        if len(kinds) > 1:
            raise OptionError(f"{path} is one file for {len(kinds)} precisions. Give a folder, or one precision.")
        return {kinds[0]: Path(path)}
    if path is None:
        if not isinstance(model, str | Path):
            raise OptionError("A model in memory has no folder to write beside. Give a path.")
        path = Path(model).parent / "export"
    ending = "" if input == "pixels" else f"-{input}"
    return {kind: Path(path) / f"model{'' if kind == 'fp32' else f'-{kind}'}{ending}.onnx" for kind in kinds}


def some_images(splits: DataSplits | None, count: int = 5) -> list[Any]:
    """Return the first training images that can be read, uint8 ``(H, W, 3)``, to compare files on."""
    import contextlib

    from zoo.errors import DataError

    found: list[Any] = []
    for index in range(min(len(splits.train), 10 * count) if splits is not None else 0):
        assert splits is not None
        with contextlib.suppress(DataError):  # reported when the images were read to train on
            found.append(splits.train.pixels(index))
        if len(found) == count:
            break
    return found


def _write(traced: Traced, graphs: Any, path: Path, takes: str, entries: dict[str, str]) -> None:
    import numpy as np
    import onnxruntime
    import torch

    from export.tracing import TENSOR, join, metadata, save, smooth_images
    from zoo.files import replacing

    with replacing(path) as temporary:
        save(join(graphs, takes), temporary, metadata(traced, takes) | entries)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        given = smooth_images(1)[0][None]
        if takes == TENSOR:
            given = traced.whole.preprocess(torch.from_numpy(given)).numpy()
        (embedding,) = session.run(None, {session.get_inputs()[0].name: given})
        if not np.isfinite(embedding).all():
            raise ModelError(
                f"{traced.name} gives embeddings that are not finite in {entries['precision']}. Ship fp32."
            )
    log.info("%s: %.2f MB", path, path.stat().st_size / 1e6)


def _write_int8(traced: Traced, chosen: Chosen, splits: DataSplits, path: Path, takes: str) -> None:
    entry = chosen.entry
    scheme = entry["scheme"] | {"scheme": entry["name"], "float_blocks": entry["float_blocks"]}
    scheme |= {"calibration": chosen.content["calibration"], "target": chosen.content["target"]}
    graphs = replace(traced.graphs, network=chosen.network)
    _write(traced, graphs, path, takes, {"precision": "int8", "quantization": json.dumps(scheme)})
