"""Models of sentence-transformers that embed images as teachers, ``st:NAME_OR_FOLDER``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from zoo.errors import ModelError, OptionError, first_line
from zoo.models.preprocessing import Preprocessing
from zoo.paths import expanded
from zoo.teachers.address import Address
from zoo.teachers.families.hugging_face import drop_text, preprocessing_of_processor, quiet
from zoo.teachers.families.published import published_folder
from zoo.teachers.families.tower import Tower, require_library, require_same_pixels

_IMAGE = "image"


def open_sentence_transformers(address: Address) -> Tower:
    """Load a model of sentence-transformers that embeds images, in float32, from a folder or by its name on the hub.

    The vector is its ``sentence_embedding``, the result of all its modules, such as a dense layer or a normalisation.

    Raises:
        ModelError: sentence-transformers or the model is missing, it does not embed images, its weights are not
            safetensors, or its preprocessing cannot be translated.
        OptionError: an output is given.
    """
    library = require_library("sentence_transformers", address.text)
    if address.output is not None:
        raise OptionError(f"Teacher {address.text} gives its sentence_embedding alone; leave #{address.output} out.")
    folder = expanded(address.name)
    if not folder.is_dir():
        more = ["*.json", "*.txt", "*.safetensors", "*.model"]
        folder = published_folder(address.name, ["modules.json"], more=[*more, *(f"*/{name}" for name in more)])
    _require_safetensors(folder, address.text)
    try:
        with quiet():
            model = library.SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
    except Exception as error:  # sentence-transformers and the libraries below it raise many kinds
        raise ModelError(
            f"Teacher {address.text} cannot be loaded by sentence-transformers ({first_line(error)})."
        ) from error
    if not model.supports(_IMAGE):
        raise ModelError(f"Teacher {address.text} does not read images, but {', '.join(map(str, model.modalities))}.")
    processor = model[0].processor
    preprocessing = preprocessing_of_processor(getattr(processor, "image_processor", processor), address)
    if not address.options.says_preprocessing:
        _require_pixels_alone(model, preprocessing, address)
    drop_text(model[0].auto_model)
    return Tower(model, _vector, "sentence_embedding", preprocessing, type(model[0].auto_model).__name__)


def _vector(network: nn.Module, pixels: Tensor) -> Tensor:
    found: Tensor = network({"pixel_values": pixels, "modality": _IMAGE})["sentence_embedding"]
    return found


def _require_pixels_alone(model: Any, preprocessing: Preprocessing, address: Address) -> None:
    """Refuse a model that needs more than pixels, or pixels that the translated preprocessing does not give."""

    def theirs(image: Image.Image) -> Tensor:
        given = model.preprocess([image])
        if more := sorted(given.keys() - {"pixel_values", "modality"}):
            raise ModelError(
                f"Teacher {address.text} is given {', '.join(more)} beside pixels, which is not supported."
            )
        return given["pixel_values"]  # type: ignore[no-any-return]

    require_same_pixels(preprocessing, theirs, address.text)


def _require_safetensors(folder: Path, teacher: str) -> None:
    """Refuse a folder in which a module has only pickled weights."""
    for file in sorted(folder.rglob("pytorch_model.bin")):
        if not any(file.parent.glob("*.safetensors")):
            raise ModelError(
                f"Teacher {teacher}: {file.relative_to(folder)} is a pickle, which is not loaded. If you trust it, "
                "load it with sentence-transformers and save it again (model.save writes safetensors)."
            )
