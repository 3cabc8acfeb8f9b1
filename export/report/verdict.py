"""Whether a model may ship: compared with baselines that need no training, and with the gates that were set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.report.baselines import STUDENT, TEACHER, TEACHER_PCA
from export.report.content import judged_of, retained, students_of, teacher_of
from export.report.formats import percent
from zoo.retrieval.bootstrap import at_least, drop_interval

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Scores of each query, bool or float ``(Q,)``, by measure and stage."""

MEASURES = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R", "ndcg_at_10": "nDCG@10"}
IMPLAUSIBLE = 1.2
"""If the lower end of the interval of retention is above this, the teacher is probably at fault."""


def judge(
    content: Mapping[str, Any], scores: Scores, notes: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    """Compare the models with baselines that need no training.

    Args:
        content: has ``stages`` of ``report.json``.
        scores: the scores to compare.
        notes: sentences on baselines that are left out.
        resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.

    Returns:
        ``outcome`` of the last model against its own network before training: "worse", "undecided", "better" or
        "unknown"; ``sentence`` on it, empty without such a baseline; ``remarks``, sentences on the other baselines;
        ``comparisons``, the gains of models over each baseline of their size; ``notes``.
    """
    stages = {row["stage"]: row for row in content["stages"]}
    teacher, models = teacher_of(content), students_of(content)
    pairs = [(model, baseline) for model in models for baseline in _of_its_size(model, stages.values())]
    pairs += [(teacher, row) for row in stages.values() if teacher and row.get("baseline") == TEACHER]
    comparisons = [
        {"stage": model["stage"], "baseline": baseline["stage"], "kind": baseline["baseline"]}
        | {
            name: _gain(values[model["stage"]], values[baseline["stage"]], resamples, seed)
            for name, values in scores.items()
        }
        for model, baseline in pairs
    ]
    last = [entry for entry in comparisons if entry["stage"] == models[-1]["stage"]] if models else []
    own = next((entry for entry in last if entry["kind"] == STUDENT), None)
    projected = next((entry for entry in last if entry["kind"] == TEACHER_PCA), None)
    of_teacher = next((entry for entry in comparisons if entry["kind"] == TEACHER), None)
    remarks = [
        *([] if projected is None else [_on_projected(projected)]),
        *([] if of_teacher is None else _on_teacher(of_teacher)),
    ]
    return {
        "outcome": "unknown" if own is None else outcome_of(own),
        "sentence": "" if own is None else _on_own(own),
        "remarks": remarks,
        "comparisons": comparisons,
        "notes": list(notes),
    }


def _of_its_size(model: Mapping[str, Any], rows: Any) -> list[Mapping[str, Any]]:
    """Return the baselines of a model: its network before training, and the teacher in as many dimensions."""
    own = [
        row
        for row in rows
        if row.get("baseline") == STUDENT
        and row["architecture"] == model["architecture"]
        and row["dim"] <= model["dim"]  # features with fewer dimensions are not projected
    ]
    projected = [row for row in rows if row.get("baseline") == TEACHER_PCA and row["dim"] == model["dim"]]
    return [*sorted(own, key=lambda row: -row["dim"])[:1], *projected]


def _gain(model: np.ndarray, baseline: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    low, high = drop_interval(model, baseline, resamples, seed)
    return {"difference": float(model.mean()) - float(baseline.mean()), "interval": [0.0 - high, 0.0 - low]}


def outcome_of(comparison: Mapping[str, Any]) -> str:
    """Return "worse" if a model is significantly below in a measure, else "better" if above in one, or "undecided"."""
    gains = _gains(comparison).values()
    if any(gain["interval"][1] < 0 for gain in gains):
        return "worse"
    return "better" if any(gain["interval"][0] > 0 for gain in gains) else "undecided"


def _gains(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the gains of a comparison by name of the measure."""
    return {MEASURES[name]: comparison[name] for name in MEASURES if name in comparison}


def _on_own(entry: Mapping[str, Any]) -> str:
    """Return a sentence on a model against its own network before training."""
    gains, outcome, name, this = _gains(entry), outcome_of(entry), _in_words(entry["baseline"]), _this(entry["stage"])
    if outcome == "better":
        return f"{_capital(this)} gains {_signed(gains)} over {name.rstrip(',')}."
    if outcome == "undecided":
        return f"{_capital(this)} is level with {name} {_signed(gains)}: its training shows no gain."
    lost = [measure for measure, gain in gains.items() if gain["difference"] < 0 or gain["interval"][1] < 0]
    better, interval = _turned(gains[lost[0]])
    said = f"{name} is {better} points of {lost[0]} better than {this} {interval}"
    for measure in lost[1:]:
        better, interval = _turned(gains[measure])
        said += f" and {better} of {measure} {interval}"
    said += ": do not ship it."
    for measure, gain in gains.items():
        if measure not in lost:
            low, high = map(_tenths, gain["interval"])
            better = _tenths(gain["difference"]).removeprefix("+")
            said += f" In {measure} {this} is {better} points better [{low}, {high}]."
    return said


def _on_projected(entry: Mapping[str, Any]) -> str:
    """Return a sentence on a model against the teacher's embeddings projected to its dimensions."""
    is_it = {"better": "above", "undecided": "level with", "worse": "below"}[outcome_of(entry)]
    this, name, gains = _capital(_this(entry["stage"])), _in_words(entry["baseline"]), _signed(_gains(entry))
    return f"{this} is {is_it} {name} which needs the teacher's network: {gains}."


def _on_teacher(entry: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the teacher has gained nothing over its network before training."""
    outcome, gains = outcome_of(entry), _signed(_gains(entry))
    if outcome == "worse":
        return [f"The teacher is worse than its network as it comes: {gains}."]
    return [f"The teacher is level with its network as it comes: {gains}."] if outcome == "undecided" else []


def _in_words(stage: str) -> str:
    """Return the name of a baseline as part of a sentence."""
    said = re.sub(r", PCA to (\d+)", r", with PCA to \1 dimensions,", stage)
    return re.sub(r"^teacher\b", "the teacher", said)


def _this(stage: str) -> str:
    return "this student" if stage == "student" else f"this student ({stage})"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _tenths(share: float) -> str:
    """Return a difference in points with one decimal and its sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def _signed(gains: Mapping[str, Mapping[str, Any]]) -> str:
    """Return gains in points, each with its measure and interval."""
    return " and ".join(
        f"{_tenths(gain['difference'])} points of {measure} "
        f"[{_tenths(gain['interval'][0])}, {_tenths(gain['interval'][1])}]"
        for measure, gain in gains.items()
    )


def _turned(gain: Mapping[str, Any]) -> tuple[str, str]:
    """Return a loss and its interval as how much better the baseline is, in points."""
    low, high = (-end for end in reversed(gain["interval"]))
    ends = [_tenths(end).removeprefix("+") for end in (low, high)]
    return _tenths(-gain["difference"]).removeprefix("+"), f"[{ends[0]}, {ends[1]}]"


def gate(
    content: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    missing: Mapping[str, str],
    fault: str,
    *,
    min_retention: float | None,
    min_gain: float | None,
    gain_by: str,
) -> dict[str, Any]:
    """Return the gates that were set and whether they hold, in the form of ``report.json``.

    Args:
        content: has ``stages`` of ``report.json``.
        verdict: result of :func:`judge`; needed for min_gain.
        missing: why a model has no baseline of its own, by stage.
        fault: why the teacher is no reference for others; empty if it is.
        min_retention: smallest retention of every model, index and pair, or None.
        min_gain: smallest gain of every model over its own network before training, a fraction in each measure, or
            None.
        gain_by: "mean", or "interval" for the lower end of the gain's interval.

    Returns:
        The options; ``passed``; ``reasons`` why not, as sentences; ``narrow``, rows whose interval includes the limit.
    """
    reasons: list[str] = []
    narrow: list[str] = []
    if min_retention is not None:
        _hold_retention(content, fault, min_retention, reasons, narrow)
    if min_gain is not None:
        assert verdict is not None
        own = {entry["stage"]: entry for entry in verdict["comparisons"] if entry["kind"] == STUDENT}
        for model in (row for row in judged_of(content) if not {"index", "pair"} & row.keys()):
            if model["stage"] in own:
                _hold_gain(own[model["stage"]], min_gain, gain_by, reasons, narrow)
            else:
                reason = missing.get(model["stage"], "none was made").rstrip(".")
                reasons.append(f"{model['stage']} has no network as it comes to be compared with: {reason}.")
    asked = {"min_retention": min_retention, "min_gain": min_gain, "gain_by": gain_by}
    return asked | {"passed": not reasons, "reasons": reasons, "narrow": narrow}


def _hold_retention(
    content: Mapping[str, Any], fault: str, limit: float, reasons: list[str], narrow: list[str]
) -> None:
    rows = judged_of(content)
    wanted = f"{100 * limit:g}\u00a0%"
    if below := [row for row in rows if not at_least(row["retention"], limit)]:
        kept = ", ".join(f"{row['stage']} keeps {percent(row['retention'])}\u00a0%" for row in below)
        reasons.append(f"{wanted} of the teacher's {retained(content)} was asked for; {kept}.")
    reasons += [f"{fault}."] if fault else [f"{doubt}." for doubt in implausible(content, limit)]
    for row in rows:
        low, high = row["retention_interval"]
        if _straddles(low, high, limit):
            share = f"{percent(row['retention'], 1)}\u00a0% [{percent(low, 1)}, {percent(high, 1)}]"
            narrow.append(f"{row['stage']} keeps {share}, an interval that includes {wanted}")


def _hold_gain(entry: Mapping[str, Any], limit: float, gain_by: str, reasons: list[str], narrow: list[str]) -> None:
    gains = _gains(entry)
    judged = {name: gain["difference"] if gain_by == "mean" else gain["interval"][0] for name, gain in gains.items()}
    if short := {name: gains[name] for name, value in judged.items() if not at_least(value, limit)}:
        by = "" if gain_by == "mean" else " by the lower end of the interval"
        reasons.append(
            f"{entry['stage']} is at {_signed(short)} from {entry['baseline']}; at least {100 * limit:g} points were "
            f"asked for{by}."
        )
    for name, gain in gains.items() if gain_by == "mean" else ():
        low, high = gain["interval"]
        if _straddles(low, high, limit):
            where = f"an interval that includes {100 * limit:g} points"
            narrow.append(f"{entry['stage']} is at {_signed({name: gain})} from {entry['baseline']}, {where}")


def _straddles(low: float, high: float, limit: float) -> bool:
    return not at_least(low, limit) and at_least(high, limit)


def implausible(content: Mapping[str, Any], asked: float | None = None) -> list[str]:
    """Return a sentence for each model whose retention is significantly higher than a student can reach.

    Args:
        content: has ``stages`` of ``report.json``.
        asked: the retention asked for; if that is above 1, higher retention is plausible too.
    """
    bound = IMPLAUSIBLE * max(1.0, asked or 1.0)
    return [
        f"{row['stage']} keeps {percent(row['retention'], 0)}\u00a0% of the teacher's {retained(content)}, more than a "
        "student learns; check that the teacher's weights are loaded and its preprocessing is right"
        for row in judged_of(content)
        if row["retention_interval"] is not None and "foreign" not in row and row["retention_interval"][0] > bound
    ]
