"""Choose the candidate to ship, and report its gain and whether the judged images were enough to decide."""

from __future__ import annotations

import logging
import platform
from typing import Any

from export.int8.budget import Drop, told_apart
from export.int8.trial import Trial
from zoo.versions import has_vnni

log = logging.getLogger(__name__)

FASTER, SMALLER_ONLY, FASTER_ONLY, NEITHER, UNTIMED = (
    "smaller and faster",
    "smaller only",
    "faster only",
    "neither smaller nor faster",
    "smaller; not timed on the target",
)
"""Possible gains of an int8 file over fp32."""
_WORTHWHILE = 1.1  # least speed-up over fp32, preprocessing included, for a file to count as faster
_AS_FAST = 1.05  # latencies up to this multiple of the shortest count as equal; then neighbours decide
_EASY = 0.98  # fp32 score from which the judged images are too easy to show what harder ones would lose
_HOSTS = {"x86": ("x86_64", "amd64"), "arm64": ("aarch64", "arm64")}


def choose(trial: Trial, target: str) -> dict[str, Any] | None:
    """Mark and return the candidate to ship, or None if none is within the budget.

    A candidate that retrieves significantly worse than another that is no slower is dropped. Of the rest the safest is
    chosen: with scales per channel rather than per tensor, 8-bit rather than 7-bit weights, and the kind that is usual
    for the network. Of equally safe ones it is the fastest. Of those within 5 % of its time it is the one that finds
    most of fp32's nearest images, which varies less by chance than the measure itself. If this machine is not the
    target, latencies are ignored.
    """
    inside = trial.inside()
    if not inside:
        return None
    here = is_here(target)
    timed = here and inside[0]["latency_ms"] is not None

    def milliseconds(entry: dict[str, Any]) -> float:
        return float(entry["latency_ms"]["tensor"]["median"]) if timed else 0.0

    def beaten(entry: dict[str, Any]) -> bool:
        mine = trial.scores[entry["name"]]
        return any(
            milliseconds(other) <= _AS_FAST * milliseconds(entry)
            and other["drop"] < entry["drop"]
            and told_apart(mine, trial.scores[other["name"]], trial.judge.seed)
            for other in inside
        )

    left = [entry for entry in inside if not beaten(entry)]  # never empty: the best of all is not beaten
    usual = inside[0]["scheme"]["kind"]  # the usual scheme is tried first
    safest = max(_safety(entry["scheme"], usual) for entry in left)
    safe = [entry for entry in left if _safety(entry["scheme"], usual) == safest]
    fastest = min(milliseconds(entry) for entry in safe)
    as_fast = [entry for entry in safe if milliseconds(entry) <= _AS_FAST * fastest]
    chosen = max(as_fast, key=lambda entry: (entry["neighbour_overlap"], -entry["drop"]))
    if timed:
        how = "the fastest here"
    else:
        how = "nearest to fp32; " + ("nothing was timed" if here else f"latency here says nothing of {target}")
    trial.content["chosen"] = chosen["name"]
    trial.content["chosen_by"] = f"of the safest inside the budget, {how}"
    return chosen


def _safety(scheme: dict[str, Any], usual: str) -> tuple[bool, bool, bool]:
    return scheme["per_channel"], not scheme["reduce_range"], scheme["kind"] == usual


def is_here(target: str) -> bool:
    """Return whether this machine is of the target's kind, so that its latencies count."""
    return has_vnni() if target == "x86-vnni" else platform.machine().lower() in _HOSTS.get(target, ())


def gain_of(entry: dict[str, Any], fp32: dict[str, Any], target: str) -> dict[str, Any]:
    """Return what an int8 candidate gains over fp32.

    Args:
        entry: the candidate's entry in ``candidates.json``.
        fp32: the entry of fp32.
        target: what int8 will run on.

    Returns:
        ``{"is", "speedup", "size"}``: one of the texts above; the speed-up from pixels to vector, or None if nothing
        was timed on the target; and the size as a fraction of fp32's.
    """
    size = entry["bytes"] / fp32["bytes"]
    if entry["latency_ms"] is None or fp32["latency_ms"] is None or not is_here(target):
        return {"is": UNTIMED if size < 1 else NEITHER, "speedup": None, "size": size}
    speedup = fp32["latency_ms"]["pixels"]["median"] / entry["latency_ms"]["pixels"]["median"]
    faster = speedup >= _WORTHWHILE
    if size < 1:
        return {"is": FASTER if faster else SMALLER_ONLY, "speedup": speedup, "size": size}
    return {"is": FASTER_ONLY if faster else NEITHER, "speedup": speedup, "size": size}


def resolution_of(drop: Drop, max_drop: float | None) -> dict[str, Any]:
    """Return whether the judged images are enough to distinguish a drop of the whole budget from no drop.

    Args:
        drop: the candidate's drop on all judged images.
        max_drop: the budget; None for no limit.

    Returns:
        ``{"images", "standard_error", "images_needed", "enough"}``; the last two are None if the budget is None or 0.
    """
    needed = drop.images_needed(max_drop) if max_drop else None
    known = {"images": drop.queries, "standard_error": drop.standard_error, "images_needed": needed}
    return known | {"enough": None if needed is None else needed <= drop.queries}


def warn(content: dict[str, Any], entry: dict[str, Any]) -> None:
    """Log warnings about the candidate that ships.

    Args:
        content: content of ``candidates.json``.
        entry: the candidate's entry.
    """
    gain, fp32 = content["gain"], content["candidates"][0]
    if gain["is"] in (SMALLER_ONLY, NEITHER):
        speed = "" if gain["speedup"] is None else f", {gain['speedup']:.2f} times as fast, preprocessing included"
        log.warning("int8 is %s: %.0f %% of fp32's size%s.", gain["is"], 100 * gain["size"], speed)
    budget = content["budget"]["max_drop"]
    if budget is None:
        return
    seen = content["resolution"]
    if seen["enough"] is False:
        log.warning(
            "%d judged images are too few for a budget of %g points: the drop of %.2f is known only to ±%.2f (95 %%). "
            "About %d are needed. Compare the files with validate on more images, or raise judged_images or "
            "validation.",
            seen["images"],
            100 * budget,
            100 * entry["drop"],
            196 * seen["standard_error"],
            seen["images_needed"],
        )
    score = fp32["parts"][0]["score"]
    if score >= _EASY:
        log.warning(
            "%s of fp32 is %.1f %% on the judged images: they are too easy to show much of a drop. Compare the files "
            "with validate on images like yours, or hold out harder classes.",
            content["measure"],
            100 * score,
        )
