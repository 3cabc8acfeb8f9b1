"""A report's figures on the exported model, for its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from export.report.content import models_of
from zoo.errors import OptionError, UserError
from zoo.files import digest
from zoo.formats.documents import MAPPING, TEXT, Kind, list_of, maybe, number, read_document, require_kinds, whole
from zoo.models.network import summary_of
from zoo.paths import given_path

_NUMBER = number("a number")
_SCORES = Kind("numbers by K", lambda value: isinstance(value, dict) and all(map(_NUMBER.fits, value.values())))
_INTERVAL = list_of(maybe(_NUMBER), 2)
_OF_STAGE = {
    "recall": _SCORES,
    "ndcg": _SCORES,
    "map_at_r": _NUMBER,
    "retention": maybe(_NUMBER),
    "retention_interval": _INTERVAL,
    "bytes": maybe(whole(0)),
    "latency_ms": maybe(MAPPING),
}


@dataclass(frozen=True)
class Measured:
    """The figures of a report that belong to one model.

    Attributes:
        content: content of ``report.json``.
        stages: its stages that are this model: the network and its files.
        teacher: the teacher's stage, or None.
    """

    content: dict[str, Any]
    stages: list[dict[str, Any]]
    teacher: dict[str, Any] | None


def find_report(report: str | Path | None, model: Path, network: nn.Module) -> Measured | None:
    """Find the figures on a model in a report.

    Args:
        report: ``report.json``, or its folder; None to look in the run that the model belongs to. Then only stages
            proven to be of exactly these weights count.
        model: the model's folder.
        network: the model.

    Returns:
        The figures; None if no report was named and none was found.

    Raises:
        OptionError: the named file is not a report, or has nothing on a model like this one.
    """
    named = given_path(report) if report is not None else model.parent / "report"
    file = named / "report.json" if named.suffix != ".json" else named
    if report is None and not file.is_file():
        return None
    try:
        content = read_document(file)
        _require_figures(content)
    except (OSError, ValueError) as error:
        if report is None:
            return None
        raise OptionError(f"{file} is not a report.json ({error}). Name the one that validate or run wrote.") from error
    weights = digest(model / "model.safetensors")
    summary = summary_of(network)
    listed = models_of(content)
    shown = [stage for stage in listed if _is_of(stage, model, weights)]
    # Reports keep only the last part of an absolute path. A file of these weights proves which folder is meant.
    own = [stage for stage in listed if shown and stage.get("source") == model.name and stage["stage"] != "teacher"]
    stages = [
        stage for stage in listed if stage in shown or stage in own or (report is not None and _is_like(stage, summary))
    ]
    if not stages and report is not None:
        found = sorted(
            {f"{stage.get('architecture')} with {stage.get('dim')} dimensions" for stage in models_of(content)}
        )
        raise OptionError(
            f"{file} measured no {summary['architecture']} with {summary['dim']} dimensions, but {', '.join(found)}. "
            "Name the report of this model."
        )
    teacher = next((stage for stage in content["stages"] if stage.get("stage") == "teacher"), None)
    return Measured(content, stages, teacher) if stages else None


def _require_figures(content: dict[str, Any]) -> None:
    """Raise a ValueError if a figure that the card needs is missing from a report or has another type."""
    require_kinds(content, {"stages": list_of(MAPPING), "data": MAPPING}, {"machine": MAPPING})
    require_kinds(content["data"], {}, dict.fromkeys(("queries", "gallery"), maybe(whole(0))))
    has_teacher = any(stage.get("stage") == "teacher" for stage in content["stages"])
    compared = ("retention", "retention_interval") if has_teacher else ()
    kinds = _OF_STAGE if has_teacher else _OF_STAGE | {"retention_interval": maybe(_INTERVAL)}
    for stage in models_of(content):
        require_kinds(stage, {"stage": TEXT} | {key: kinds[key] for key in compared}, kinds)
        require_kinds(stage.get("latency_ms") or {}, {}, {"median": maybe(_NUMBER)})


def _is_of(stage: dict[str, Any], model: Path, weights: str) -> bool:
    """Return whether a stage is proven to be of these weights: their folder, or an ONNX file made from them."""
    source = stage.get("source")
    if not isinstance(source, str) or stage.get("stage") == "teacher":
        return False
    path = Path(source)
    if path.suffix != ".onnx":
        return path.is_dir() and (path / "model.safetensors").is_file() and path.resolve() == model.resolve()
    in_run = model.parent / "export" / path.name  # if the report has the name alone
    try:
        return any(file.is_file() and _source_digest(file) == weights for file in (path, in_run))
    except UserError:
        return False


def _is_like(stage: dict[str, Any], summary: dict[str, Any]) -> bool:
    same = all(stage.get(key) == summary[key] for key in ("architecture", "dim"))
    return same and stage.get("stage") != "teacher"


def _source_digest(path: Path) -> str | None:
    from export.onnx.graph import read_onnx

    proto = read_onnx(path)
    return next((entry.value for entry in proto.metadata_props if entry.key == "source_digest"), None)
