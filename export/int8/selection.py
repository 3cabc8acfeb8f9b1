"""Try int8 candidates, and choose the one to ship or refuse all."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from export.int8.budget import MEAN, Budget
from export.int8.choice import choose, gain_of, resolution_of, warn
from export.int8.judge import Judge, images_of
from export.int8.quantization import to_fp16
from export.int8.schemes import Scheme, improved, schemes_for
from export.int8.trial import Trial
from export.onnx.tracing import Traced
from zoo.arguments import require_at_least
from zoo.data.image_set import DataSplits
from zoo.errors import RefusedError
from zoo.models.facts import names_only
from zoo.versions import has_vnni, machine, versions

log = logging.getLogger(__name__)

SCHEMA = 2
_NEAR = 0.95  # share of fp32's nearest images found by a candidate within the budget that ends the search
_WIDE = 0.1  # a larger budget was probably meant in percentage points


@dataclass(frozen=True, eq=False)
class Chosen:
    """The int8 network to ship.

    Attributes:
        network: its graph.
        entry: its entry in ``candidates.json``.
        content: content of ``candidates.json``.
    """

    network: ModelProto
    entry: dict[str, Any]
    content: dict[str, Any]


def choose_int8(
    traced: Traced,
    splits: DataSplits,
    *,
    search: bool,
    target: str = "x86",
    max_drop: float | None = 0.005,
    budget_by: str = MEAN,
    calibration_images: int = 256,
    judged_images: int = 6000,
    max_unreadable: int = 10,
    latency_runs: int = 50,
    seed: int = 0,
    before: RefusedError | None = None,
    save: Callable[[dict[str, Any]], object] = lambda content: None,
) -> Chosen:
    """Quantise a network, measure recall and latency of each candidate, and choose one.

    Candidates are judged on validation images, whose classes are held out of training, and on training images not used
    for calibration; never on test images. The measure is Recall@1, or nDCG@10 if there are continuous labels and no
    classes.

    Args:
        traced: the model.
        splits: its data.
        search: try all schemes that fit, and if none is within the budget, leave blocks in float, most harmful first;
            otherwise try only the usually best scheme.
        target: what it will run on: "x86" (with VNNI if this processor has it), "x86-vnni", "arm64" or "web".
        max_drop: the budget: largest drop of the measure below fp32's, as a fraction; None for no limit.
        budget_by: what must be within it, "mean" or "interval"; see :class:`~export.int8.budget.Budget`.
        calibration_images: number of training images to measure activation ranges on.
        judged_images: largest number of images to judge on.
        max_unreadable: unreadable images left out before an error.
        latency_runs: timed runs per candidate; 0 for none.
        seed: seed for the choice of images and the bootstrap.
        before: if the model was fine-tuned after a refusal, that refusal: drops are relative to its fp32, and its
            candidates stay on record.
        save: called with the content of ``candidates.json`` after each candidate.

    Raises:
        RefusedError: no candidate is within the budget.
        DataError: there are too few images to calibrate or judge with, or no labels to judge by.
        ModelError: the model gives embeddings that are not finite.
        OptionError: unknown target, or calibration_images or judged_images is below 1.
    """
    require_at_least(1, calibration_images=calibration_images, judged_images=judged_images)
    if max_drop is not None and max_drop > _WIDE:
        log.warning("max_drop %g allows int8 to lose %g points; 0.005 is half a point", max_drop, 100 * max_drop)
    calibration, parts = images_of(splits, calibration_images, judged_images, max_unreadable, seed)
    network, budget = traced.graphs.network, Budget(max_drop, budget_by)
    schemes = schemes_for(network, target, has_vnni())
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "model": names_only(traced.name),
        "target": target,
        "budget": {"max_drop": max_drop, "by": budget_by},
        "measure": None,
        "calibration": {
            "images": len(calibration),
            "classes": 0 if calibration.labels is None else len(np.unique(calibration.labels)),
            "seed": seed,
        },
        "judged_on": {
            "images": sum(len(part.images) for part in parts),
            "of": " and ".join(part.of for part in parts),
            "parts": [{"of": part.of, "images": len(part.images)} for part in parts],
            "data": names_only(splits.name),
        },
        "chosen": None,
        "chosen_by": None,
        "gain": None,
        "resolution": None,
        "candidates": [],
        "machine": machine(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(traced, parts, Path(folder), seed)
        content["measure"] = judge.name
        if before is None:
            trial = Trial(judge, calibration, content, budget, save)
        else:
            content["candidates"] = [entry | {"inside_budget": False} for entry in before.content["candidates"]]
            content["before"] = {name: before.content.get(name) for name in ("chosen_by", "blocks", "calibration")}
            trial = Trial(judge, calibration, content, budget, save, "finished, ", before.network)
        trial.add("fp32", network, None)
        if search:
            trial.add("fp16", to_fp16(network), None)
        for scheme in schemes if search else schemes[:1]:
            trial.add_int8(scheme)
        if search:
            _search_further(trial, schemes)
    trial.time(latency_runs)
    entry = choose(trial, target)
    if entry is not None:
        fp32 = next(each for each in reversed(trial.entries) if each["precision"] == "fp32")
        content["gain"] = gain_of(entry, fp32, target)
        content["resolution"] = resolution_of(trial.drops[entry["name"]], max_drop)
    save(content)
    if entry is None:
        raise RefusedError(*_refusal(trial), content, network)
    warn(content, entry)
    return Chosen(trial.networks[entry["name"]], entry, content)


def _search_further(trial: Trial, schemes: list[Scheme]) -> None:
    """Try what takes longer to make: first what makes the file neither larger nor slower, then what does."""
    if any(entry["neighbour_overlap"] >= _NEAR for entry in trial.inside()):
        return
    schemes = [*schemes, *improved(schemes, trial.judge.graphs.network)]
    for scheme in schemes:
        if scheme.equalized or scheme.bias_corrected:
            trial.add_int8(scheme)
    if not trial.inside():
        for scheme in schemes:
            if scheme.reduce_range:  # an eighth bit costs time on this target, but may restore recall
                trial.add_int8(replace(scheme, reduce_range=False))
    if not trial.inside():
        trial.add_mixed()


def _refusal(trial: Trial) -> tuple[str, str]:
    """Return what was found, and the remedy."""
    measured = [entry for entry in trial.entries if entry["precision"] == "int8" and entry["error"] is None]
    if not measured:
        return "No int8 file could be made; candidates.json says why.", "Ship fp32 or fp16."
    best = min(measured, key=lambda entry: entry["drop"])
    found = (
        f"No int8 file keeps {trial.judge.name} within {100 * (trial.budget.max_drop or 0):g} points of fp32; the "
        f"best, {best['name']}, loses {100 * best['drop']:.2f}."
    )
    remedy = "Allow" if trial.prefix else "Finish the student with qat_epochs, allow"
    return found, f"{remedy} a larger max_drop, or ship fp32."
