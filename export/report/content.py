"""What the content of ``report.json`` says: as attributes of a :class:`Report`, and where more than one reader asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.report.formats import count, decimals, megabytes, percent
from zoo.notebook import html_table
from zoo.retrieval.label_measures import NDCG_K

TEACHER = "teacher"
"""The teacher's stage, the first where there is one."""


@dataclass(frozen=True)
class Retention:
    """The share that a stage keeps of its teacher's Recall@1, or nDCG@10 where there are no classes.

    Attributes:
        share: 1 for as much as the teacher.
        low: lower end of the interval of 95 %, by a paired bootstrap over queries.
        high: upper end.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class StageResult:
    """What was measured of a stage: a model, an index, a mixed pair or a baseline. Shares lie in [0, 1].

    Attributes:
        name: of the stage, such as "onnx-int8".
        retention: what it keeps of the teacher's retrieval.
        recall: Recall@K by K; empty where there are no classes.
        map_at_r: MAP@R; None where there are no classes.
        ndcg: nDCG@K by K; empty where there are no continuous labels.
        mean_label_distance: of the nearest K by K, in the labels' unit; empty where there are none.
        dim: dimensions of the embedding.
        parameters: of the network; None if unknown.
        bytes: of the model's files; None if unknown.
        latency_ms: median time of one image on one thread; None if not measured.
        content: all that ``report.json`` says of it.
    """

    name: str
    retention: Retention
    recall: dict[int, float]
    map_at_r: float | None
    ndcg: dict[int, float]
    mean_label_distance: dict[int, float]
    dim: int
    parameters: int | None
    bytes: int | None
    latency_ms: float | None
    content: dict[str, Any]

    @classmethod
    def of(cls, stage: dict[str, Any]) -> StageResult:
        """Make one of an entry of ``stages`` in ``report.json``."""

        def by_k(measure: str) -> dict[int, float]:
            return {int(k): value for k, value in stage.get(measure, {}).items()}

        return cls(
            name=stage["stage"],
            retention=Retention(stage["retention"], *stage["retention_interval"]),
            recall=by_k("recall"),
            map_at_r=stage.get("map_at_r"),
            ndcg=by_k("ndcg"),
            mean_label_distance=by_k("mean_label_distance"),
            dim=stage["dim"],
            parameters=stage["parameters"],
            bytes=stage["bytes"],
            latency_ms=(stage["latency_ms"] or {}).get("median"),
            content=stage,
        )

    def __repr__(self) -> str:
        name, score = _measure(self.content), score_of(self.content)
        kept = self.retention
        return (
            f"StageResult({self.name!r}: {name} {percent(score)} %, retention {percent(kept.share)} % "
            f"[{percent(kept.low)}, {percent(kept.high)}], {self.dim} dimensions)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of a validation.

    Attributes:
        folder: where ``report.json`` and ``report.html`` lie.
        content: what ``report.json`` holds.
        passed: whether the gates asked for hold; True where none was asked for.
    """

    folder: Path
    content: dict[str, Any]
    passed: bool

    @property
    def stages(self) -> dict[str, StageResult]:
        """What was measured of each stage, by its name, the teacher first."""
        return {stage["stage"]: StageResult.of(stage) for stage in self.content["stages"]}

    def __repr__(self) -> str:
        state = "passed" if self.passed else "failed"
        return f"Report({str(self.folder)!r}, {state}, stages: {', '.join(self.stages)})"

    def _repr_html_(self) -> str:
        stages = self.content["stages"]
        name = _measure(stages[0])
        rows = [
            (
                label_of(stage),
                percent(score_of(stage)),
                f"{percent(stage['retention'])} [{', '.join(map(percent, stage['retention_interval']))}]",
                count(stage["parameters"]),
                count(stage["dim"]),
                megabytes(stage["bytes"]),
                decimals((stage["latency_ms"] or {}).get("median")),
            )
            for stage in stages
        ]
        headings = ["", f"{name}, %", "retention, %", "parameters", "dim", "MB", "ms"]
        page = f"Report: {self.folder / 'report.html'}"
        return html_table(rows, headings, [*sentences_of(self.content), gate_of(self.content)[1], page])


def _measure(stage: Mapping[str, Any]) -> str:
    """Return the name of what retention is of."""
    return "Recall@1" if "recall" in stage else f"nDCG@{NDCG_K}"


def retained(content: Mapping[str, Any]) -> str:
    """Return the name of the measure of which models keep a share: of classes where they are known."""
    return _measure(content["stages"][0])


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
