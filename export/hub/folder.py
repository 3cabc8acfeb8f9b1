"""A model as a folder that other libraries open without this project installed: :func:`write_hub`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.shipping import CANDIDATES, Exported, export_model
from export.staging import is_unfinished, staged
from zoo.errors import OptionError, RefusedError, all_shown
from zoo.files import require_writable, write_json, write_text
from zoo.formats.documents import has_keys
from zoo.formats.model_config import FACTS_KEY
from zoo.paths import given_path

if TYPE_CHECKING:
    import numpy as np

CARD, CONFIG, WEIGHTS, PREPROCESSOR = "README.md", "config.json", "model.safetensors", "preprocessor_config.json"
PIXELS, TENSORS, PARITY = "pixels", "onnx", "parity"
# The file names that transformers.js expects for each precision.
TENSOR_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx"}
# Everything that an export may write; a later export removes what it does not write again.
OURS = (
    *(CARD, WEIGHTS, PREPROCESSOR, PIXELS, TENSORS, PARITY, "modules.json", "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "1_Dense", "2_Normalize", CONFIG),
)
_OF_REPOSITORIES = {".git", ".gitattributes", ".gitignore", ".cache", "LICENSE"}


def write_hub(
    model: str | Path,
    out: str | Path,
    *,
    license: str | None = None,
    report: str | Path | None = None,
    parity: bool = False,
    **options: Any,
) -> Exported:
    """Export a model as a folder for model hubs: weights, configurations, ONNX files of both inputs, and a card.

    The folder has, next to timm's ``config.json`` and ``model.safetensors``: ``modules.json`` and its folders for
    sentence-transformers, ``preprocessor_config.json``, ``onnx/`` with files that take prepared tensors (input
    ``pixel_values``, output ``image_embeds``) and ``pixels/`` with files that take images; see docs/formats.md. What an
    earlier export wrote is replaced; other files of a repository, such as .git, stay.

    Args:
        model: a model folder.
        out: the folder.
        license: identifier of the licence for the card, such as apache-2.0; None if not known yet.
        report: ``report.json`` of this model, for the card's figures; None for the one of the run it belongs to.
        parity: add the parity pack.
        options: options of export_model, except ``input``.

    Returns:
        The files in ``pixels/``, and what was tried for int8.

    Raises:
        RefusedError: no int8 file meets the budget; the folder is written without one.
        ModelError: the network cannot be expressed in all of these libraries.
        OptionError: an option is invalid, or the folder holds other files.
    """
    from export.hub.agreement import pillow_agreement
    from export.hub.card import hub_card, require_license
    from export.hub.measured import find_report
    from export.hub.networks import require_expressible
    from export.hub.preprocessor import preprocessor_config
    from export.hub.sentence_transformers import write_sentence_transformers
    from export.onnx.tensor_file import write_tensor_file
    from export.parity.pack import write_parity
    from zoo.models.folder import load_model, save_model
    from zoo.models.network import preprocessing_of

    model, out = given_path(model), given_path(out)
    if options.get("input", "pixels") != "pixels":
        raise OptionError("layout hub has files of both inputs. Leave input out.")
    require_license(license)
    _require_place(model, out)
    network = load_model(model)
    config = preprocessor_config(preprocessing_of(network))
    measured = find_report(report, model, network)
    refused: RefusedError | None = None
    with staged(out, CONFIG, OURS) as stage:
        save_model(network, stage)
        require_expressible(network, stage)
        write_json(stage / PREPROCESSOR, config)
        write_sentence_transformers(network, stage)
        try:
            exported = export_model(model, stage / PIXELS, **options)
        except RefusedError as error:
            refused, exported = error, Exported(_files_in(stage / PIXELS), error.content)
        if "fp32" not in exported.files:
            more = export_model(model, stage / PIXELS, precision="fp32")
            exported = replace(exported, files=more.files | exported.files)
        (stage / PIXELS / CANDIDATES).unlink(missing_ok=True)  # it names the data and machine of whoever exports
        for precision, file in exported.files.items():
            write_tensor_file(file, stage / TENSORS / TENSOR_FILES[precision])
        if parity:
            write_parity(exported.files, stage / PARITY)
        images = _training_images(options)
        agreement = pillow_agreement(stage / PIXELS / "model.onnx", stage / TENSORS / "model.onnx", config, images)
        card = hub_card(out.name, network, stage, exported, measured, agreement, license, parity)
        write_text(stage / CARD, card)
    if refused is not None:
        raise refused
    return replace(exported, files={precision: out / PIXELS / file.name for precision, file in exported.files.items()})


def _training_images(options: dict[str, Any]) -> list[np.ndarray]:
    """Return some calibration images; none without data."""
    from export.onnx.writing import some_images
    from zoo.data import load_data
    from zoo.training.options import DataOptions, gathered

    if options.get("data") is None:
        return []
    return some_images(load_data(options["data"], **gathered(DataOptions, options).division), 16)


def _files_in(folder: Path) -> dict[str, Path]:
    """Return the files that an export wrote before it refused int8."""
    named = {"fp32": folder / "model.onnx", "fp16": folder / "model-fp16.onnx"}
    return {precision: file for precision, file in named.items() if file.is_file()}


def _require_place(model: Path, out: Path) -> None:
    """Refuse a folder that holds files not written by :func:`write_hub`, before anything in it is replaced."""
    require_writable(out)
    if out.absolute() == model.absolute():
        raise OptionError(f"{out} is the model's own folder. Choose another out.")
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in _OF_REPOSITORIES) if out.is_dir() else []
    if others and not is_hub_folder(out) and not is_unfinished(out):
        raise OptionError(f"{out} holds other files ({all_shown(others, 3)}). Choose an empty folder.")


def is_hub_folder(folder: Path) -> bool:
    """Return whether a folder was written by :func:`write_hub`."""
    return all((folder / name).is_file() for name in (WEIGHTS, PREPROCESSOR, CARD)) and has_keys(
        folder / CONFIG, FACTS_KEY
    )
