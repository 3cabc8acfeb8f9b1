"""Teacher, student, ONNX and report in one verb: :func:`run`."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from compressor.distillation import distill
from compressor.int8_finish.shipping import require_int8, ship
from export.report.validation import Report, require_report_options, validate
from export.shipping import CANDIDATES, export_model, files_of, require_export_options
from zoo.arguments import DataLike, TeacherLike, require_given, require_valid
from zoo.data import DataSplits, load_data
from zoo.errors import OptionError, RefusedError, did_you_mean, first_line, shown
from zoo.files import alone_in, digest, model_digest, write_json, write_text
from zoo.formats.documents import FLAG, MAPPING, TEXT, Kind, list_of, read_document, require_kinds
from zoo.models.facts import names_only, told_apart
from zoo.paths import given_path
from zoo.stage import is_first_process, plain
from zoo.training.defaults import filled
from zoo.training.options import DataOptions, NetworkOptions, documented, gathered
from zoo.training.train import train

log = logging.getLogger(__name__)

SHARED = frozenset(
    {"data", "split", "validation", "continuous_labels", "label_metric", "columns", "max_unreadable", "seed", "out"}
)
"""Options that all stages share and that are given once."""
_CONFIG = "config.yaml"
_OF_READING = frozenset({"continuous_labels", "label_metric", "columns"})
_MADE = "made"  # digests of what a stage wrote
# Fields of a stage's records that reusing it depends on: required ones, and optional ones.
_NEEDED: dict[str, dict[str, Kind]] = {
    "report.json": {"gate": MAPPING, "stages": list_of(MAPPING), "data": MAPPING},
    CANDIDATES: {"candidates": list_of(MAPPING)},
}
_RECORDS: dict[str, dict[str, Kind]] = {"inputs.json": {"files": list_of(TEXT), "refused": MAPPING, _MADE: MAPPING}}


@documented
def run(
    data: DataLike,
    out: str | Path,
    *,
    teacher: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
    given_teacher: TeacherLike | None = None,
    split: str = DataOptions.split,
    validation: float = DataOptions.validation,
    continuous_labels: str | Path | None = DataOptions.continuous_labels,
    label_metric: str = DataOptions.label_metric,
    columns: dict[str, str] | None = DataOptions.columns,
    max_unreadable: int = DataOptions.max_unreadable,
    seed: int = 0,
) -> Report:
    """Train a teacher, distil it, export the student to ONNX, validate it on unseen classes, and write the report.

    The folder ``out`` receives config.yaml (all options, resolved), teacher/, student/, export/ and report/.
    Finished stages are reused; an interrupted stage resumes.

    Args:
        data: images, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder of the run.
        teacher: options of train.
        student: options of distill, such as arch and dim.
        export: options of export, such as precision.
        report: options of validate, such as min_retention.
        given_teacher: an existing teacher (a model folder, an .onnx or .npz file, or a name such as hf:NAME, see
            docs/how-to/own-teacher.md; in Python anything that distill takes); then no teacher is trained.
        seed: seed for everything random.

    Returns:
        The report.

    Raises:
        RefusedError: no int8 file keeps recall; the report is written without one.
        UserError: the data, a model or an option is unusable.
    """
    from zoo.retrieval.protocol import require_test_images

    out = given_path(out)
    divided: dict[str, Any] = {"split": split, "validation": validation}
    divided |= {"continuous_labels": continuous_labels, "label_metric": label_metric, "columns": columns}
    shared = divided | {"max_unreadable": max_unreadable, "seed": seed}
    teacher_options = filled("train", _resolved(train, "teacher", teacher))
    student_options = filled("distill", _resolved(distill, "student", student, also_skip={"teacher"}))
    given_export = dict(export or {})
    qat_epochs = given_export.pop("qat_epochs", None)
    export_options = _resolved(export_model, "export", given_export, also_skip={"model", "before"})
    export_options["qat_epochs"] = qat_epochs
    report_options = _resolved(validate, "report", report, also_skip={"models", "teacher"})
    _require_possible(teacher_options, student_options, export_options, report_options)
    splits = load_data(data, **divided)
    require_test_images(splits, split)
    ready = None if given_teacher is None else _opened_once(given_teacher, splits, student_options["teacher_precision"])
    config = {
        "data": splits.name,
        "out": out,
        **shared,
        "given_teacher": given_teacher if ready is None or isinstance(given_teacher, str | Path) else _name_of(ready),
        "teacher": teacher_options,
        "student": student_options,
        "export": export_options,
        "report": report_options,
    }
    resolved = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    if not (out / _CONFIG).exists():
        write_text(out / _CONFIG, resolved)
    # Objects are read only once. Data named by a text is read again in each stage, so that the stage could run alone.
    given, asked = (data, shared) if isinstance(data, str | Path) else (splits, _unread(shared))

    if ready is None:
        _announce(1, f"teacher: {teacher_options['arch']}, {teacher_options['dim']} dimensions", out / "teacher")
        source: TeacherLike = train(given, out / "teacher", **asked, **teacher_options)
    else:
        source = ready
        log.info("[1/4] teacher: %s, given", _name_of(source))
    _announce(2, f"student: {student_options['arch']}, {student_options['dim']} dimensions", out / "student")
    small = distill(source, data=given, out=out / "student", **asked, **student_options)
    if not is_first_process():
        sys.exit(0)  # of several processes that train together, the first does the rest
    with alone_in(out):  # training has its own lock, held by one of the processes that train together
        if not _holds(out / _CONFIG, resolved):  # only now: a folder started with other options keeps its own
            write_text(out / _CONFIG, resolved)
        log.info("[3/4] ONNX")
        export_options["loss"] = student_options["loss"]  # named by the user, so it may come from any module
        artefacts, refused = _export(small, source, splits, out / "export", divided, shared | export_options)
        log.info("[4/4] report")
        written = _report([small, *artefacts], source, splits, out / "report", shared | report_options)
    if refused is not None:
        raise refused
    return written


def _unread(options: dict[str, Any]) -> dict[str, Any]:
    """Return options without those for reading data, for data that are already read."""
    return {name: value for name, value in options.items() if name not in _OF_READING}


def _require_possible(
    teacher: dict[str, Any], student: dict[str, Any], export: dict[str, Any], report: dict[str, Any]
) -> None:
    """Refuse before hours of training what later stages would refuse."""
    from compressor.losses import LOSSES
    from zoo.losses import checked_options, find_loss
    from zoo.models.int8_speed import advice
    from zoo.models.making import create_model

    for options in (teacher, student, export, report):
        require_valid(options)
    checked_options(student["loss"], find_loss(student["loss"], LOSSES), student["loss_options"] or {})
    if (warning := advice(student["arch"])) is not None:
        log.warning(warning)
    create_model(**vars(gathered(NetworkOptions, student)))
    asked = require_export_options(**{name: export[name] for name in ("precision", "input", "target", "budget_by")})
    if export["qat_epochs"]:
        require_int8(asked, export["qat_epochs"])
    asked_of_report = ("ks", "min_retention", "index", "min_gain", "gain_by", "baselines")
    require_report_options(**{name: report[name] for name in asked_of_report})
    if report["min_gain"] is not None and not student["pretrained"]:
        log.warning(
            "report.min_gain will fail: student.pretrained is false, so there is no pretrained network to compare with"
        )


def _opened_once(teacher: TeacherLike, splits: DataSplits, precision: str) -> TeacherLike:
    """Return a given teacher for all stages: a path unchanged, a name or an object opened.

    Raises:
        DataError: it has ready embeddings, and one is missing for an image of any part.
        UserError: it is not a teacher.
    """
    from zoo.teachers.address import path_of
    from zoo.teachers.opening import open_teacher
    from zoo.teachers.ready import ArrayTeacher

    opened = open_teacher(teacher, precision)
    if isinstance(opened, ArrayTeacher):
        for images in (splits.train, splits.validation, splits.test):
            opened.require(images.ids)
    return opened if path_of(teacher) is None else teacher


def _name_of(teacher: TeacherLike) -> str:
    """Return the name of a teacher that :func:`_opened_once` returned: its path, or its name in reports."""
    return str(teacher) if isinstance(teacher, str | Path) else str(getattr(teacher, "name", teacher))


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text


def _announce(number: int, what: str, folder: Path) -> None:
    log.info("[%d/4] %s -> %s", number, what, folder)


def _export(
    student: Path,
    teacher: TeacherLike,
    splits: DataSplits,
    folder: Path,
    divided: dict[str, Any],
    options: dict[str, Any],
) -> tuple[list[Path], RefusedError | None]:
    """Export, unless the files were already made from exactly these weights with these options.

    Returns:
        The files, and the refusal of int8, now or in an earlier run.
    """
    inputs = names_only(plain({"options": options, "data": splits.digest, "model": model_digest(student)}))
    made_of = folder / "inputs.json"
    asked = files_of(student, folder, options["precision"], options["input"])
    if made_of.is_file():
        made = read_record(made_of)
        files = [folder / name for name in made.pop("files", [])]  # empty if only int8 was asked for, and refused
        refused, digests = made.pop("refused", None), made.pop(_MADE, {})
        tried = folder / CANDIDATES
        there = all(file.is_file() for file in (*files, *([tried] if refused else [])))
        if made == inputs and there and _is_as_made(folder, digests):
            log.info("%s is already finished: reused", folder)
            return files, RefusedError(**refused, content=read_record(tried), network=None) if refused else None
        for stale in files:
            stale.unlink(missing_ok=True)
    write_json(made_of, {"files": [file.name for file in asked.values()]})  # for the next run, if this one is killed
    left = {name: value for name, value in options.items() if name not in divided}  # the data are already divided
    error: RefusedError | None = None
    try:
        files = list(ship(student, folder, teacher=teacher, data=splits, **left).files.values())
    except RefusedError as refusal:
        error, files = refusal, [file for precision, file in asked.items() if precision != "int8"]
    made = inputs | {"files": [file.name for file in files]}
    if error is not None:  # recorded, because a new search would take minutes and find the same
        made["refused"] = {"found": error.found, "remedy": error.remedy}
    made[_MADE] = _digests(folder, [*made["files"], CANDIDATES])
    write_json(made_of, made)
    return files, error


def _report(
    models: list[Path], teacher: TeacherLike, splits: DataSplits, folder: Path, options: dict[str, Any]
) -> Report:
    """Validate, unless the report was already made of exactly these models with these options."""
    pair = [given_path(options[name]) for name in ("query_encoder", "gallery_encoder") if options[name] is not None]
    files = [*models, *pair]
    of_models = [_digest_of(teacher), *map(model_digest, files)]
    inputs = names_only(plain({"options": options, "data": splits.digest, "models": of_models}))
    names = told_apart(places := [_name_of(teacher), *map(str, files)])
    inputs["names"] = [names[place] for place in places]  # the names in the report
    made_of, finished = folder / "inputs.json", folder / "report.json"
    if finished.is_file() and made_of.is_file():
        made = read_record(made_of)
        digests = made.pop(_MADE, {})
        if made == inputs and _is_as_made(folder, digests):
            log.info("%s is already finished: reused", folder)
            content = read_record(finished)
            return Report(folder, content, content["gate"]["passed"])
    report = validate(models, teacher, splits, folder, **_unread(options))
    write_json(made_of, inputs | {_MADE: _digests(folder, ["report.json", "report.html"])})
    return report


def _digest_of(teacher: TeacherLike) -> str:
    """Return the digest of any teacher, whether this project made its file or folder or not."""
    from zoo.teachers.address import path_of
    from zoo.teachers.opening import open_teacher

    path = path_of(teacher)
    if path is not None and (path.is_file() or (path / "model.safetensors").is_file()):
        return model_digest(path)
    return open_teacher(teacher).digest


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: digest(folder / name) for name in names if (folder / name).is_file()}


def _is_as_made(folder: Path, digests: Mapping[str, str]) -> bool:
    """Return whether files exist and are unchanged; an earlier version of this project recorded no digests."""
    for name, said in digests.items():
        if _digests(folder, [name]) != {name: said}:
            log.warning("%s was changed or removed: its stage runs again", folder / name)
            return False
    return True


def read_record(file: Path) -> dict[str, Any]:
    """Read a JSON record of a stage of a run.

    Raises:
        OptionError: the file is not JSON, or has values of other types.
    """
    try:
        content = read_document(file)
        require_kinds(content, _NEEDED.get(file.name, {}), _RECORDS.get(file.name, {}))
        require_kinds(content.get("gate", {"passed": True}), {"passed": FLAG})
        require_kinds(content.get("refused", {"found": "", "remedy": ""}), {"found": TEXT, "remedy": TEXT})
        for name in (*content.get("files", []), *content.get(_MADE, {})):
            if Path(name).name != name:
                raise ValueError(f"files has {shown(name)}; it must be the name of a file in this folder")
    except ValueError as error:
        raise OptionError(
            f"{file} is not valid JSON of a run ({first_line(error)}). Delete its folder to run the stage again."
        ) from error
    return content


def _resolved(
    verb: Callable[..., Any], section: str, given: Mapping[str, Any] | None, also_skip: set[str] | None = None
) -> dict[str, Any]:
    """Complete a verb's options with its defaults; refuse unknown options and missing values."""
    if not isinstance(given or {}, Mapping):
        raise OptionError(f"{section} is {given!r}; it must hold options by name, such as arch and dim.")
    skipped = SHARED | (also_skip or set())
    parameters = {name: p for name, p in inspect.signature(verb).parameters.items() if name not in skipped}
    options = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    for name, value in (given or {}).items():
        if name not in parameters:
            hint = did_you_mean(name, parameters)
            where = f"; set {name} once, for all stages" if name in SHARED else ""
            raise OptionError(f"{section} has no option {name!r}{where}.{hint}")
        options[name] = value
    require_given(verb, options)
    return options
