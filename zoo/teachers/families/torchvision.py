"""torchvision networks as teachers: ``torchvision:NAME/FILE``, with weights in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from zoo.errors import ModelError, OptionError, did_you_mean, first_line
from zoo.models.preprocessing import Preprocessing
from zoo.paths import expanded
from zoo.teachers.address import Address
from zoo.teachers.families.tower import OWN_PREPROCESSING, Tower, require_same_pixels

_HEADS = ("fc", "classifier", "heads", "head")


def open_torchvision(address: Address) -> Tower:
    """Load a torchvision network without its classifier.

    Its name is ``NAME/FILE.safetensors``, or ``NAME.WEIGHTS/FILE.safetensors`` for the preprocessing of weights other
    than the default, such as ``resnet50.IMAGENET1K_V1/resnet50.safetensors``. torchvision publishes its weights as
    pickles, which are not loaded. The vector is the input of the last linear layer.

    Raises:
        ModelError: the network or the file is unknown or broken, or its preprocessing cannot be translated.
        OptionError: an output is given.
    """
    if address.output is not None:
        raise OptionError(f"Teacher {address.text} gives its pooled features alone; leave #{address.output} out.")
    named, _, file = address.name.partition("/")
    name, _, tag = named.partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"Teacher {address.text}: torchvision has no such network.{did_you_mean(name, known)}")
    kinds = torchvision.models.get_model_weights(name)
    if tag and tag not in kinds.__members__:
        raise ModelError(f"Teacher {address.text}: {name} has no weights {tag!r}, but {', '.join(kinds.__members__)}.")
    weights = kinds[tag] if tag else kinds.DEFAULT
    path = expanded(file)
    if not file or not path.is_file() or path.suffix != ".safetensors":
        found = f"{path} does not exist" if file and path.suffix == ".safetensors" else "pickles are not loaded"
        raise ModelError(
            f"Teacher {address.text}: {found}, and torchvision publishes pickles. If you trust them, convert once: "
            f"safetensors.torch.save_file(torchvision.models.{name}(weights={weights.name!r}).state_dict(), "
            f"'{name}.safetensors'), and give torchvision:{named}/{name}.safetensors; or take timm's copy, such as "
            "timm:resnet50.tv_in1k."
        )
    network = _load(name, path, address)
    transform = weights.transforms()
    preprocessing = address.options.over(_preprocessing(transform, address))
    if not address.options.says_preprocessing:
        require_same_pixels(preprocessing, transform, address.text)
    notes = [f"its classifier of {_without_classifier(network, address):,} classes is left out."]
    if not tag and len(kinds) > 1:
        notes.append(f"its preprocessing is that of {weights.name}; name others as torchvision:{name}.WEIGHTS/FILE.")
    return Tower(network, _vector, "features", preprocessing, name, notes)


def _vector(network: nn.Module, pixels: Tensor) -> Tensor:
    found: Tensor = network(pixels)
    return found


def _load(name: str, path: Path, address: Address) -> nn.Module:
    try:
        state = load_file(path)
        layers = [key for key, value in state.items() if key.startswith(_HEADS) and value.ndim >= 2]
        count = state[layers[-1]].shape[0] if layers else 1000
        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=count)
        for part in ("AuxLogits", "aux1", "aux2"):  # used in training only
            if getattr(network, part, None) is not None:
                setattr(network, part, None)
                network.aux_logits = False  # type: ignore[assignment]
                state = {key: value for key, value in state.items() if not key.startswith(f"{part}.")}
        network.load_state_dict(state, strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]
        raise ModelError(f"Teacher {address.text}: {path.name} is no weight file of {name} ({reason}).") from error
    return network


def _without_classifier(network: nn.Module, address: Address) -> int:
    """Replace the last linear layer by an identity; return its number of classes."""
    for name in _HEADS:
        part = getattr(network, name, None)
        layers = (
            []
            if not isinstance(part, nn.Module)
            else [(where, layer) for where, layer in part.named_modules() if isinstance(layer, nn.Linear)]
        )
        if layers:
            where, layer = layers[-1]
            path = f"{name}.{where}".rstrip(".")
            parent, _, last = path.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
            return layer.out_features
    raise ModelError(
        f"Teacher {address.text} ends in no linear layer, so that its features are unknown. In Python, give a module "
        "that returns them."
    )


def _preprocessing(transform: Any, address: Address) -> Preprocessing:
    """Translate a torchvision preset for classification."""
    interpolations = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
    try:
        (crop,), (resize,) = transform.crop_size, transform.resize_size
        interpolation = interpolations[transform.interpolation]
        normal = {"mean": tuple(transform.mean), "std": tuple(transform.std)}
        return Preprocessing.resizing(resize, (crop, crop), "center", interpolation=interpolation, **normal)
    except (AttributeError, KeyError, TypeError, ValueError, OptionError) as error:
        raise ModelError(
            f"Teacher {address.text}: its preprocessing cannot be translated ({first_line(error)}). {OWN_PREPROCESSING}"
        ) from error
