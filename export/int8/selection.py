"""Which int8 file to ship: of the candidates tried, one is chosen, or all are refused."""

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
_NEAR = 0.95  # of fp32's nearest images found by a candidate inside the budget: nothing is left to improve
_WIDE = 0.1  # a budget that is likely meant in points


@dataclass(frozen=True, eq=False)
class Chosen:
    """The int8 network to ship.

    Attributes:
        network: its graph.
        entry: what ``candidates.json`` says of it.
        content: what ``candidates.json`` holds.
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
    """Quantise a network, measure what each candidate retrieves and how fast it is, and choose one.

    Candidates are judged on validation images, which are of training classes held out, and besides on training images
    that were not calibrated on; never on test images. The measure is Recall@1, or nDCG@10 where there are continuous
    labels and no classes.

    Args:
        traced: the model.
        splits: its data.
        search: try all schemes that fit, and where none is inside the budget leave blocks in float, most harmful first;
            otherwise the usual best scheme alone.
        target: what it will run on: "x86" (with VNNI if this processor has it), "x86-vnni", "arm64" or "web".
        max_drop: the budget: how far the measure may fall below fp32's, as a fraction; None for no limit.
        budget_by: what must be inside it, "mean" or "interval"; see :class:`~export.int8.budget.Budget`.
        calibration_images: how many training images activations are measured on.
        judged_images: how many images to judge on, at most.
        max_unreadable: how many unreadable images are left out before an error.
        latency_runs: how often each candidate is timed; 0 for never.
        seed: of the choice of images and of bootstrap samples.
        before: where the model was finished after a refusal, that refusal: drops are against its fp32, and what was
            tried then stays on record.
        save: called with what is known after each candidate.

    Raises:
        RefusedError: none is inside the budget.
        DataError: too few images to calibrate or judge with, or without labels to judge by.
        ModelError: the model gives embeddings that are not finite.
        OptionError: unknown target, or no images to calibrate with are asked for.
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
    """Try what takes longer: first what makes the file neither larger nor slower, then what does."""
    if any(entry["neighbour_overlap"] >= _NEAR for entry in trial.inside()):
        return
    schemes = [*schemes, *improved(schemes, trial.judge.graphs.network)]
    for scheme in schemes:
        if scheme.equalized or scheme.bias_corrected:
            trial.add_int8(scheme)
    if not trial.inside():
        for scheme in schemes:
            if scheme.reduce_range:  # the eighth bit costs time here, but gives recall
                trial.add_int8(replace(scheme, reduce_range=False))
    if not trial.inside():
        trial.add_mixed()


def _refusal(trial: Trial) -> tuple[str, str]:
    """Return what was found, and what can be done."""
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
