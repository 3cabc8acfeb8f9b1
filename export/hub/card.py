"""The card of a hub folder: its ``README.md``, with the metadata that hubs read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from export.hub.agreement import Agreement
from export.hub.measured import Measured
from export.hub.recipes import recipes
from export.report.content import kept_of
from export.report.formats import DASH, decimals, megabytes, percent
from export.runtime import preprocessing_in_words
from export.shipping import Exported
from zoo.errors import OptionError, shown
from zoo.models.card import cell
from zoo.models.facts import ModelFacts, facts_of, names_only, without_places
from zoo.models.network import preprocessing_of, summary_of

UNKNOWN = "unknown"
"""The licence on the card if none was given; ``publish`` refuses such a folder."""
TAGS = ["image-retrieval", "embeddings", "sentence-transformers", "transformers.js", "onnx", "embedding-compressor"]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")
_RETRIEVAL = "image-feature-extraction"


def require_license(license: str | None) -> None:
    """Check that a text can be the identifier of a licence; None passes.

    Raises:
        OptionError: it cannot.
    """
    if license is not None and (not _LICENSE.fullmatch(license) or license == UNKNOWN):
        raise OptionError(
            f"license is {shown(license)}; it must be an identifier in small letters, such as apache-2.0, mit, "
            "cc-by-4.0 or other."
        )


@dataclass(frozen=True)
class _Subject:
    """The model that a card describes."""

    name: str
    facts: ModelFacts
    summary: dict[str, Any]
    license: str | None
    measured: Measured | None


def hub_card(
    name: str,
    model: nn.Module,
    folder: Path,
    exported: Exported,
    measured: Measured | None,
    agreement: Agreement,
    license: str | None,
    parity: bool,
) -> str:
    """Return the card as Markdown.

    Args:
        name: name of the model, for the title.
        model: the network.
        folder: the folder, with all other files already in it.
        exported: the files that take pixels, and what was tried for int8.
        measured: a report's figures on the model, or None.
        agreement: how closely preprocessing by Pillow agrees with that of the file.
        license: identifier of the licence, or None if unknown.
        parity: whether the folder has a parity pack.
    """
    subject = _Subject(name, without_places(facts_of(model)), summary_of(model), license, measured)
    preprocessing = preprocessing_in_words(preprocessing_of(model).as_pretrained_cfg())
    height, width = subject.summary["input_size"]
    about = [
        ("architecture", subject.summary["architecture"]),
        ("embedding", f"{subject.summary['dim']} dimensions, {_compared(subject.facts.metric)}"),
        ("parameters", f"{subject.summary['parameters']:,}"),
        ("input", f"RGB images of any size, {preprocessing}"),
    ]
    options = json.dumps(subject.facts.options, indent=2, ensure_ascii=False, default=str)
    parts = [
        f"---\n{_metadata(subject).to_yaml()}\n---",
        f"# {name}",
        f"An image-embedding model for retrieval: images in, vectors of {subject.summary['dim']} dimensions out.",
        _license_note(subject, model),
        _table([("", ""), *about]),
        *_figures(subject, exported),
        "## Use",
        recipes(subject.summary["dim"], subject.facts.metric, (height, width), exported.files, parity),
        "## Preprocessing",
        _preprocessing_note(agreement),
        "## Limits",
        _limits(subject),
        "## How it was made",
        _made(subject),
        f"```json\n{options}\n```",
        f"Exported by embedding-compressor; {folder_size(folder)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def folder_size(folder: Path) -> str:
    """Return the number and total size of a folder's files, in words."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"{len(sizes)} files, {megabytes(sum(sizes))} MB without this one"


def _metadata(subject: _Subject) -> ModelCardData:
    results = _results(subject)
    return ModelCardData(
        pipeline_tag=_RETRIEVAL,
        library_name="timm",
        license=subject.license or UNKNOWN,
        base_model=_base_models(subject) or None,
        tags=TAGS,
        model_name=subject.name if results else None,
        eval_results=results or None,
    )


def _base_models(subject: _Subject) -> list[str]:
    """Return the models this one was made from that have a name on a hub: its pretrained weights and its teacher."""
    import timm

    found = []
    if subject.facts.options.get("pretrained") is True:
        config = timm.get_pretrained_cfg(str(subject.facts.options.get("arch", subject.summary["architecture"])))
        found.append(getattr(config, "hf_hub_id", None))
    teacher = (subject.facts.teacher or {}).get("name", "")
    kind, colon, name = str(teacher).partition("#")[0].partition(":")
    if colon and kind in ("hf", "hf-hub", "st") and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        found.append(name)
    return [name for name in dict.fromkeys(found) if name]


def _results(subject: _Subject) -> list[EvalResult]:
    """Return the figures in the form that hubs list; empty without a report."""
    if subject.measured is None:
        return []
    data = names_only(subject.measured.content["data"])
    dataset = str(data.get("name", "not recorded"))
    shared: dict[str, Any] = {
        "task_type": _RETRIEVAL,
        "task_name": "Image retrieval",
        "dataset_type": re.sub(r"[^\w.-]+", "-", dataset),
        "dataset_name": dataset,
        "dataset_split": str(data.get("split", "test")),
    }
    found = []
    for stage in subject.measured.stages:
        scores = {f"Recall@{k}": value for k, value in stage.get("recall", {}).items()}
        scores |= {f"nDCG@{k}": value for k, value in stage.get("ndcg", {}).items()}
        if "map_at_r" in stage:
            scores["MAP@R"] = stage["map_at_r"]
        for label, value in scores.items():
            kind = re.sub(r"\W+", "_", label.lower())
            found.append(
                EvalResult(metric_type=kind, metric_name=f"{label} ({stage['stage']})", metric_value=value, **shared)
            )
        if subject.measured.teacher is not None:
            low, high = stage["retention_interval"]
            found.append(
                EvalResult(
                    metric_type="retention",
                    metric_name=f"share of the teacher's first measure ({stage['stage']})",
                    metric_value=stage["retention"],
                    metric_args={"interval_95": [low, high]},
                    **shared,
                )
            )
    return found


def _figures(subject: _Subject, exported: Exported) -> list[str]:
    """Return the tables of measurements and files."""
    parts = ["## Measured"]
    measured = subject.measured
    if measured is None:
        parts.append("No report was given to this card: how well the model retrieves is not known here.")
    else:
        data = names_only(measured.content["data"])
        counts = ", ".join(f"{count:,} {what}" for what in ("queries", "gallery") if (count := data.get(what)))
        parts.append(f"On the test classes of {data.get('name', 'data not recorded')}, unseen in training ({counts}):")
        rows = [("stage", "Recall@1, %", "MAP@R, %", "of the teacher's, % [95 % interval]", "MB", "ms, 1 thread")]
        rows += [
            (
                stage["stage"],
                percent(stage.get("recall", {}).get("1")),
                percent(stage.get("map_at_r")),
                kept_of(stage) if measured.teacher else DASH,
                megabytes(stage.get("bytes")),
                decimals((stage.get("latency_ms") or {}).get("median")),
            )
            for stage in ([measured.teacher] if measured.teacher else []) + measured.stages
        ]
        machine = measured.content.get("machine", {})
        parts += [_table(rows), f"Times on {machine.get('processor', 'a processor not recorded')}."]
    files = [("file in pixels/", "MB")]
    files += [(file.name, megabytes(file.stat().st_size)) for file in exported.files.values()]
    parts.append(_table(files))
    if "int8" in exported.files and exported.candidates is not None:
        parts.append(_int8(exported.candidates))
    return parts


def _int8(content: dict[str, Any]) -> str:
    entry = next(each for each in content["candidates"] if each["name"] == content["chosen"])
    low, high = entry["drop_interval"]
    return (
        f"int8: {content['chosen']}, for {content['target']}. On {content['judged_on']['images']:,} images "
        f"({content['judged_on']['of']}) its {content['measure']} is {percent(entry['score'])} %, "
        f"{percent(entry['drop'])} points below fp32's [{percent(low)}, {percent(high)}]."
    )


def _license_note(subject: _Subject, model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", {})
    said = config.get("license") if isinstance(config, dict) else None
    started = subject.facts.options.get("pretrained")
    sources = []
    if started:
        sources.append(f"the weights it started from ({said or 'licence not recorded'} according to timm)")
    if subject.facts.teacher:
        sources.append(f"its teacher ({subject.facts.teacher.get('name', 'not recorded')})")
    sources.append(f"the images it was trained on ({subject.facts.data.get('name', 'not recorded')})")
    whole = ", ".join(sources)
    if subject.license is None:
        return (
            f"> **The licence is not known.** It depends on {whole}. Settle it, and export again with `--license`, "
            "before you give this model away."
        )
    return f"Licence: {subject.license}. It was chosen by whoever exported the model; it depends on {whole}."


def _compared(metric: str) -> str:
    return "L2-normalised: compare by dot product" if metric == "cosine" else "compare by Euclidean distance"


def _preprocessing_note(agreement: Agreement) -> str:
    return (
        "The files in `pixels/` hold the preprocessing and give the same vector in every language. Where a library "
        "takes the network alone, it prepares images itself, and the vector differs a little. timm, transformers and "
        "sentence-transformers resize and crop as in training, in whole levels. fastembed rounds half of an odd margin "
        f"down, which can shift the crop by a pixel: on {agreement.images}, the embedding after that has a cosine of "
        f"at least {_downwards(agreement.lowest)} (mean {_downwards(agreement.mean)}) with that of "
        "`pixels/model.onnx`. The `pipeline` of transformers.js resizes without antialiasing besides, so that its "
        "vectors differ more the larger the image is. No configuration of theirs changes either. Do not search vectors "
        "of one way among those of another."
    )


def _downwards(value: float) -> str:
    return f"{int(value * 1e5) / 1e5:.5f}"


def _limits(subject: _Subject) -> str:
    seen = subject.facts.data.get("name", "not recorded")
    return (
        f"Trained on {seen}. On other kinds of images it retrieves worse than measured here; try it on yours first. "
        "It tells apart what its training data told apart, and may reflect their biases. Vectors of this model compare "
        "with vectors of this model only, of the same or another precision."
    )


def _made(subject: _Subject) -> str:
    facts = subject.facts
    rows: list[tuple[Any, ...]] = [("", ""), ("loss", facts.loss or "not recorded")]
    if facts.teacher:
        digest = facts.teacher.get("digest", "")
        rows.append(("teacher", f"{facts.teacher.get('name', 'not recorded')}{f' ({digest})' if digest else ''}"))
    rows.append(("data", facts.data.get("name", "not recorded")))
    rows += [(f"{part} images", f"{facts.data[part]['images']:,}") for part in ("train", "test") if part in facts.data]
    rows += [(library, version) for library, version in facts.versions.items() if library in ("torch", "timm")]
    return f"{_table(rows)}\n\nOptions:"


def _table(rows: list[tuple[Any, ...]]) -> str:
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(cell(value) for value in line)} |" for line in lines)
