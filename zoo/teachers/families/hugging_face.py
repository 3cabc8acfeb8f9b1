"""Vision models of transformers as teachers, ``hf:NAME_OR_FOLDER``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from zoo.errors import ModelError, OptionError, first_line
from zoo.models.preprocessing import Preprocessing
from zoo.paths import expanded
from zoo.teachers.address import Address
from zoo.teachers.families.image_processor import FILE, preprocessing_from
from zoo.teachers.families.published import published_folder
from zoo.teachers.families.tower import OWN_PREPROCESSING, Tower, require_library, require_same_pixels

OUTPUTS = ("image_embeds", "pooler_output", "cls", "mean")
_TEXT = ("text_model", "text_projection", "text_encoder", "text_decoder", "qformer")  # parts that process text


def open_hugging_face(address: Address) -> Tower:
    """Load the image side of a model of transformers, in float32, from a folder or by its name on the hub.

    The vector is ``image_embeds`` (the result of ``get_image_features``) if the model has text beside images, else
    ``pooler_output`` if its weights are in the file, else the class token of ``last_hidden_state``, or the mean of its
    map.

    Raises:
        ModelError: transformers or the model is missing, its weights are not safetensors, or its preprocessing cannot
            be translated.
        OptionError: the model has no such output.
    """
    require_library("transformers", address.text)
    folder = expanded(address.name)
    if not folder.is_dir():
        folder = published_folder(
            address.name, ["config.json", "*.safetensors"], [FILE], more=["model.safetensors.index.json"]
        )
    require_safetensors(folder, address.text)
    preprocessing = _preprocessing_in(folder, address)
    network, invented, dropped = _load(folder, address.text)
    vector, taken, notes = vector_of(network, preprocessing, address, invented)
    if dropped:
        notes.append(f"its classifier ({', '.join(dropped)}) is left out.")
    return Tower(network, vector, taken, preprocessing, type(network).__name__, notes)


def require_safetensors(folder: Path, teacher: str) -> None:
    """Refuse a folder without safetensors.

    Raises:
        ModelError: it has none; says how to make them.
    """
    if any(folder.glob("*.safetensors")) or any(folder.glob("*/*.safetensors")):
        return
    pickles = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    found = (
        f"its weights, {pickles[0]}, are a pickle, which is not loaded" if pickles else "it has no .safetensors file"
    )
    raise ModelError(
        f"Teacher {teacher}: {found}. If you trust it, load it with its own library and save it again "
        "(save_pretrained writes safetensors)."
    )


def _preprocessing_in(folder: Path, address: Address) -> Preprocessing:
    """Return the preprocessing of a folder's image processor, or that of the address's options if there is none.

    Raises:
        ModelError: there is neither, or the processor cannot be translated.
    """
    import transformers

    if not any((folder / name).is_file() for name in (FILE, "processor_config.json")):
        if address.options.says_preprocessing:
            return address.options.over(Preprocessing(crop_pct=1.0))
        raise ModelError(
            f"Teacher {address.text} has no {FILE}, which says how pixels become its input. Bring it, or give options: "
            "#size=224,mean=0.5,std=0.5,resize=squash."
        )
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and the libraries below it raise many kinds
        raise ModelError(
            f"Teacher {address.text}: its image processor cannot be read ({first_line(error)})."
        ) from error
    return preprocessing_of_processor(processor, address)


def preprocessing_of_processor(processor: Any, address: Address) -> Preprocessing:
    """Translate an image processor of transformers, and check that both give the same for images of odd sizes.

    Options of the address override it, and are not compared.

    Raises:
        ModelError: the processor cannot be translated.
    """
    try:
        preprocessing = preprocessing_from(processor.to_dict())
    except (ValueError, TypeError) as error:
        if address.options.says_preprocessing:  # they replace what cannot be translated
            return address.options.over(Preprocessing(crop_pct=1.0))
        raise ModelError(
            f"Teacher {address.text}: its preprocessing ({type(processor).__name__}) cannot be translated: "
            f"{first_line(error)}. {OWN_PREPROCESSING}"
        ) from error
    if address.options.says_preprocessing:
        return address.options.over(preprocessing)

    def theirs(image: Image.Image) -> Any:
        return processor(images=image, return_tensors="pt")["pixel_values"]

    require_same_pixels(preprocessing, theirs, address.text)
    return preprocessing


def _load(folder: Path, teacher: str) -> tuple[nn.Module, set[str], list[str]]:
    """Return a model's image side, the pooler weights missing in the file, and the classifier parts left out."""
    import transformers

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            named = next((name for name in config.architectures or [] if "WithProjection" in name), "")
            network, info = getattr(transformers, named, transformers.AutoModel).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
    except Exception as error:  # transformers and the libraries below it raise many kinds
        raise ModelError(f"Teacher {teacher} cannot be loaded by transformers ({first_line(error)}).") from error
    if info["mismatched_keys"]:
        raise ModelError(
            f"Teacher {teacher}: the weights do not fit config.json ({sorted(info['mismatched_keys'])[0]})."
        )
    missing = {name for name in info["missing_keys"] if "mask_token" not in name}
    invented = {name for name in missing if "pooler" in name}
    if missing - invented:
        name = sorted(missing - invented)[0]
        raise ModelError(f"Teacher {teacher} lacks weights, such as {name}. Download or save it again.")
    heads = sorted({name.split(".")[0] for name in info["unexpected_keys"] if name.startswith(("classifier", "head"))})
    drop_text(network)
    return network, invented, heads


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' progress bars and warnings; the caller reports problems of loading."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def drop_text(network: nn.Module) -> None:
    """Remove a model's text parts, so that only its image side is counted, moved and digested."""
    if hasattr(network, "get_image_features"):
        for name in _TEXT:
            if isinstance(getattr(network, name, None), nn.Module):
                delattr(network, name)


def vector_of(
    network: nn.Module, preprocessing: Preprocessing, address: Address, invented: set[str]
) -> tuple[Callable[[nn.Module, Tensor], Tensor], str, list[str]]:
    """Return a function that makes a model's vector, the name of that vector, and notes.

    Args:
        network: the model.
        preprocessing: its preprocessing, for the input size.
        address: the address, with the output asked for.
        invented: pooler weights that are missing in the file.

    Raises:
        OptionError: there is no such output.
    """
    asked, notes = _asked(address), []
    projects = hasattr(network, "get_image_features") or "WithProjection" in type(network).__name__
    with torch.no_grad():
        output = _vision(network)(pixel_values=torch.zeros(1, 3, *preprocessing.input_size))
    pools = getattr(output, "pooler_output", None) is not None and not invented
    there = [*["image_embeds"] * projects, *["pooler_output"] * pools, "cls", "mean"]
    if asked is None:
        asked = there[0]
        if invented and not projects:
            notes.append("its pooler has no weights in the file, so that its class token is taken.")
    elif asked not in there:
        raise OptionError(f"Teacher {address.text} has no {asked}; it has {', '.join(f'#{name}' for name in there)}.")
    return partial(_vector, taken=asked), asked, notes


def _asked(address: Address) -> str | None:
    """Return the vector that an address asks for, or None for the model's own convention."""
    if address.output == "last_hidden_state" and address.pooling:
        return address.pooling
    if address.output is not None:
        address.require_output_among(OUTPUTS)
    return address.output


def _vision(network: nn.Module) -> nn.Module:
    inner = getattr(network, "vision_model", None)
    return inner if isinstance(inner, nn.Module) and hasattr(network, "get_image_features") else network


def _vector(network: nn.Module, pixels: Tensor, taken: str) -> Tensor:
    if taken == "image_embeds":
        ask: Any = getattr(network, "get_image_features", network)
        found = ask(pixel_values=pixels)
        if not isinstance(found, Tensor):
            found = found.image_embeds if "image_embeds" in found else found.pooler_output
    else:
        output = _vision(network)(pixel_values=pixels)
        found = output.pooler_output if taken == "pooler_output" else pooled(output.last_hidden_state, taken)
    return found.flatten(1) if found.ndim == 4 else found  # type: ignore[no-any-return]


def pooled(tokens: Tensor, pooling: str) -> Tensor:
    """Return the first of tokens ``(N, T, D)`` ("cls") or their mean ("mean"); for maps ``(N, D, H, W)``, the mean."""
    if tokens.ndim == 4:
        return tokens.flatten(2).mean(dim=2)
    return tokens.mean(dim=1) if pooling == "mean" else tokens[:, 0]
