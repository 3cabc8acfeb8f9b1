"""Models of open_clip as teachers: ``open_clip:ARCH/WEIGHTS`` (a tag or a file) and ``open_clip:FOLDER``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import ModelError, OptionError, did_you_mean, first_line
from zoo.models.preprocessing import Preprocessing
from zoo.paths import expanded
from zoo.teachers.address import Address
from zoo.teachers.families.hugging_face import require_safetensors
from zoo.teachers.families.published import published_folder
from zoo.teachers.families.tower import OWN_PREPROCESSING, Tower, require_library, require_same_pixels

OUTPUTS = ("image_embeds", "pooler_output")
_WEIGHTS = "open_clip_*.safetensors"
_OF_TRANSFORM = ("mean", "std", "interpolation", "resize_mode")


def open_open_clip(address: Address) -> Tower:
    """Load the image side of a model of open_clip, in float32.

    The vector is ``image_embeds``, the result of ``encode_image``, not normalised; ``#pooler_output`` omits the
    projection.

    Raises:
        ModelError: open_clip, the model or its weights are missing, the weights are not safetensors, or the
            preprocessing cannot be translated.
        OptionError: the model has no such output.
    """
    open_clip = require_library("open_clip", address.text)
    address.require_output_among(OUTPUTS)
    given, options = _source(open_clip, address)
    try:
        model, transform = open_clip.create_model_from_pretrained(*given, **options)
    except Exception as error:  # open_clip and the libraries below it raise many kinds
        raise ModelError(f"Teacher {address.text} cannot be loaded by open_clip ({first_line(error)}).") from error
    visual = model.visual
    preprocessing = address.options.over(_preprocessing(visual.preprocess_cfg, address))
    if not address.options.says_preprocessing:
        require_same_pixels(preprocessing, transform, address.text)
    if address.output == "pooler_output":
        if not isinstance(getattr(visual, "proj", None), Tensor):
            raise OptionError(f"Teacher {address.text} has no projection that could be left out; take #image_embeds.")
        visual.proj = None
    architecture = given[0].rpartition("/")[2].removeprefix("local-dir:")
    return Tower(visual, _vector, address.output or "image_embeds", preprocessing, architecture)


def _vector(network: nn.Module, pixels: Tensor) -> Tensor:
    found = network(pixels)
    return found[0] if isinstance(found, tuple) else found  # captioning models also return tokens


def _source(open_clip: Any, address: Address) -> tuple[list[str], dict[str, Any]]:
    """Return open_clip's arguments for loading a model, with all files on this machine.

    Raises:
        ModelError: the model or its weights are missing, or the weights are not safetensors.
    """
    folder = expanded(address.name)
    arch, _, weights = address.name.partition("/")
    known = open_clip.list_models()
    if folder.is_dir() and (arch not in known or (folder / "open_clip_config.json").is_file()):
        require_safetensors(folder, address.text)
        return [f"local-dir:{folder}"], {}
    if arch not in known:
        raise ModelError(
            f"Teacher {address.text}: there is neither such a folder nor such a model in open_clip, which is named as "
            f"open_clip:ARCH/WEIGHTS.{did_you_mean(arch, known)}"
        )
    file = expanded(weights)
    if weights and file.is_file():
        if file.suffix != ".safetensors":
            raise ModelError(
                f"Teacher {address.text}: {file.name} is no .safetensors file, and pickles are not loaded. Convert it "
                "with safetensors.torch.save_file(state_dict, 'weights.safetensors')."
            )
        return [arch, str(file)], {}
    config = open_clip.get_pretrained_cfg(arch, weights)
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not config:
        raise ModelError(
            f"Teacher {address.text}: {weights!r} is neither a file nor weights of {arch}, which are "
            f"{', '.join(tags) or 'none'}."
        )
    if not (repository := config.get("hf_hub", "").strip("/")):
        raise ModelError(
            f"Teacher {address.text}: these weights are published as a pickle alone, which is not loaded. Take others "
            f"of {', '.join(tags)}, or convert them and give open_clip:{arch}/FILE.safetensors."
        )
    repository = "/".join(repository.split("/")[:2])
    file = next(iter(published_folder(repository, [_WEIGHTS]).glob(_WEIGHTS)))
    options = {f"image_{name}": config[name] for name in _OF_TRANSFORM if name in config}
    return [arch, str(file)], options | {"force_quick_gelu": bool(config.get("quick_gelu"))}


def _preprocessing(said: Mapping[str, Any], address: Address) -> Preprocessing:
    """Translate a model's transform: resize by the shorter side and crop, or squash."""
    size = said["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = said.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ModelError(
            f"Teacher {address.text}: its resize_mode {mode!r} has no counterpart here. {OWN_PREPROCESSING}"
        )
    interpolation = "bilinear" if said.get("interpolation") == "bilinear" else "bicubic"
    crop_mode = "squash" if mode == "squash" else "center"
    normal = {name: tuple(said[name]) for name in ("mean", "std")}
    return Preprocessing((height, width), 1.0, interpolation, crop_mode, **normal)
