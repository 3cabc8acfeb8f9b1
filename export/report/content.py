"""Access to ``report.json``: a :class:`Report` with attributes, and look-ups that several readers use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.report.formats import DASH, count, decimals, megabytes, percent
from zoo.notebook import html_table
from zoo.retrieval.label_measures import NDCG_K

TEACHER = "teacher"
"""The teacher's stage, which comes first if there is one."""


@dataclass(frozen=True)
class Retention:
    """A stage's Recall@1, or nDCG@10 without classes, as a fraction of its teacher's.

    Attributes:
        share: the fraction; 1 means equal to the teacher.
        low: lower end of the 95 % interval, by a paired bootstrap over queries.
        high: upper end.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class StageResult:
    """Measurements of a stage: a model, an index, a mixed pair or a baseline. Recall, MAP@R and nDCG are in [0, 1].

    Attributes:
        name: name of the stage, such as "onnx-int8".
        retention: its retrieval relative to the teacher's; None without a teacher.
        recall: Recall@K by K; empty without classes.
        map_at_r: MAP@R; None without classes.
        ndcg: nDCG@K by K; empty without continuous labels.
        mean_label_distance: mean label distance of the K nearest by K, in the labels' unit; empty without continuous
            labels.
        dim: dimensions of the embedding.
        parameters: number of parameters of the network; None if unknown.
        bytes: size of the model's files; None if unknown.
        latency_ms: median time for one image on one thread; None if not measured.
        content: its entry in ``report.json``.
    """

    name: str
    retention: Retention | None
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
        """Make a result from an entry of ``stages`` in ``report.json``."""

        def by_k(measure: str) -> dict[int, float]:
            return {int(k): value for k, value in stage.get(measure, {}).items()}

        return cls(
            name=stage["stage"],
            retention=_retention(stage),
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
        said = [f"{name} {percent(score)} %"]
        if kept is not None:
            said.append(f"retention {percent(kept.share)} % [{percent(kept.low)}, {percent(kept.high)}]")
        return f"StageResult({self.name!r}: {', '.join(said)}, {self.dim} dimensions)"


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of a validation.

    Attributes:
        folder: folder of ``report.json`` and ``report.html``.
        content: content of ``report.json``.
        passed: whether all gates that were set hold; True if none was set.
    """

    folder: Path
    content: dict[str, Any]
    passed: bool

    @property
    def stages(self) -> dict[str, StageResult]:
        """Measurements of each stage by its name, the teacher first."""
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
                kept_of(stage),
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


def _retention(stage: Mapping[str, Any]) -> Retention | None:
    interval = stage["retention_interval"]
    return None if interval is None else Retention(stage["retention"], *interval)


def _measure(stage: Mapping[str, Any]) -> str:
    """Return the name of the measure that retention compares."""
    return "Recall@1" if "recall" in stage else f"nDCG@{NDCG_K}"


def retained(content: Mapping[str, Any]) -> str:
    """Return the name of the measure that retention compares in a report: by class if classes are known."""
    return _measure(content["stages"][0])


def models_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages of single models, the teacher first, without indexes, pairs and baselines."""
    return [stage for stage in content["stages"] if not {"index", "pair", "baseline"} & stage.keys()]


def teacher_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the teacher's stage, or None if models were measured without one."""
    first: dict[str, Any] = content["stages"][0]
    return first if first["stage"] == TEACHER else None


def students_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages of single models without the teacher; the last is the one that ships."""
    return [stage for stage in models_of(content) if stage["stage"] != TEACHER]


def judged_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that gates apply to: not the teacher or baselines, and foreign models only if all are."""
    rows = [stage for stage in content["stages"] if stage["stage"] != TEACHER and "baseline" not in stage]
    return [stage for stage in rows if "foreign" not in stage] or rows


def indexes_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages with an index."""
    return [stage for stage in content["stages"] if "index" in stage]


def label_of(stage: Mapping[str, Any]) -> str:
    """Return the name of a stage, marked if it is a baseline."""
    return f"{stage['stage']} (baseline)" if "baseline" in stage else str(stage["stage"])


def score_of(stage: Mapping[str, Any]) -> float:
    """Return a stage's Recall@1, or nDCG@10 without classes."""
    score: float = stage["recall"]["1"] if "recall" in stage else stage["ndcg"][str(NDCG_K)]
    return score


def kept_of(stage: Mapping[str, Any]) -> str:
    """Return a stage's retention and its interval in percent, or a dash if it was measured without a teacher."""
    kept = _retention(stage)
    return DASH if kept is None else f"{percent(kept.share)} [{percent(kept.low)}, {percent(kept.high)}]"


def ks_of(content: Mapping[str, Any]) -> list[str]:
    """Return each K of Recall@K in ascending order, as JSON keys."""
    return sorted(content["stages"][0].get("recall", {}), key=int)


def sentences_of(content: Mapping[str, Any]) -> list[str]:
    """Return the sentences on baselines, the verdict on the last model first; empty if they were left out."""
    verdict = content["verdict"]
    if verdict is None:
        return []
    return [*filter(None, [verdict["sentence"]]), *verdict["remarks"], *verdict["notes"]]


def gate_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return the state of the gate, "passed", "failed" or "none", and one or two sentences about it."""
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
