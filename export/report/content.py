"""What the content of ``report.json`` says, where more than one reader asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.retrieval.label_measures import NDCG_K

TEACHER = "teacher"
"""The teacher's stage, the first where there is one."""


def retained(content: Mapping[str, Any]) -> str:
    """Return the name of the measure of which models keep a share: of classes where they are known."""
    return "Recall@1" if "recall" in content["stages"][0] else f"nDCG@{NDCG_K}"


def models_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that are a model alone, the teacher first: no index, pair or baseline."""
    return [stage for stage in content["stages"] if not {"index", "pair", "baseline"} & stage.keys()]


def teacher_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the teacher's stage; None where models were measured without one."""
    first: dict[str, Any] = content["stages"][0]
    return first if first["stage"] == TEACHER else None


def students_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that are a model alone and not the teacher; the last is the one that ships."""
    return [stage for stage in models_of(content) if stage["stage"] != TEACHER]


def judged_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that gates hold for: no teacher, no baseline, and no foreign model unless all models are."""
    rows = [stage for stage in content["stages"] if stage["stage"] != TEACHER and "baseline" not in stage]
    return [stage for stage in rows if "foreign" not in stage] or rows


def indexes_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages with an index."""
    return [stage for stage in content["stages"] if "index" in stage]


def label_of(stage: Mapping[str, Any]) -> str:
    """Return the name of a stage, by which a baseline is known as one."""
    return f"{stage['stage']} (baseline)" if "baseline" in stage else str(stage["stage"])


def score_of(stage: Mapping[str, Any]) -> float:
    """Return what a stage reaches in that measure."""
    score: float = stage["recall"]["1"] if "recall" in stage else stage["ndcg"][str(NDCG_K)]
    return score


def ks_of(content: Mapping[str, Any]) -> list[str]:
    """Return the K that Recall@K was measured at, in order, as the keys they are in JSON."""
    return sorted(content["stages"][0].get("recall", {}), key=int)


def sentences_of(content: Mapping[str, Any]) -> list[str]:
    """Return what is said of baselines, the verdict on the last model first; nothing where they were left out."""
    verdict = content["verdict"]
    if verdict is None:
        return []
    return [*filter(None, [verdict["sentence"]]), *verdict["remarks"], *verdict["notes"]]


def gate_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return the state of the gate, "passed", "failed" or "none", and a sentence or two on it."""
    gate = content["gate"]
    asked = []
    if gate["min_retention"] is not None:
        asked.append(f"keeps at least {100 * gate['min_retention']:g}\u00a0% of the teacher's {retained(content)}")
    if gate["min_gain"] is not None:
        asked.append(f"is at least {100 * gate['min_gain']:g} points above its network as it comes")
    if not asked:
        return "none", "No gate: no minimum retention or gain was set."
    narrow = f" Narrow: {'; '.join(gate['narrow'])}." if gate["narrow"] else ""
    if gate["passed"]:
        manner = ", narrowly" if narrow else ""
        return "passed", f"Gate passed{manner}: every model {' and '.join(asked)}.{narrow}"
    return "failed", f"Gate failed: {' '.join(gate['reasons'])}{narrow}"
