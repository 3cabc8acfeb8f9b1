"""What the content of ``report.json`` says, where more than one reader asks."""

from __future__ import annotations

from typing import Any

from zoo.retrieval.label_measures import NDCG_K


def retained(content: dict[str, Any]) -> str:
    """Return the name of the measure of which models keep a share: of classes where they are known."""
    return "Recall@1" if "recall" in content["stages"][0] else f"nDCG@{NDCG_K}"


def models_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that are a model alone: no index, no mixed pair."""
    return [stage for stage in content["stages"] if "index" not in stage and "pair" not in stage]


def indexes_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages with an index."""
    return [stage for stage in content["stages"] if "index" in stage]


def score_of(stage: dict[str, Any]) -> float:
    """Return what a stage reaches in that measure."""
    score: float = stage["recall"]["1"] if "recall" in stage else stage["ndcg"][str(NDCG_K)]
    return score


def ks_of(content: dict[str, Any]) -> list[str]:
    """Return the K that Recall@K was measured at, in order, as the keys they are in JSON."""
    return sorted(content["stages"][0].get("recall", {}), key=int)
