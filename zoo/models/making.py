"""Make an embedding model: a timm backbone, pooling and a linear head, with weights that are checked to fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import nn

from zoo.arguments import ArchLike, require_valid
from zoo.errors import ModelError, OptionError, did_you_mean, first_line, shown
from zoo.files import digest
from zoo.formats.documents import read_document
from zoo.formats.model_config import FACTS_KEY
from zoo.formats.preprocessing import Preprocessing
from zoo.models.facts import COSINE, ModelFacts, set_facts
from zoo.models.network import as_student, head_of, linear_head_of, preprocessing_of, summary_of, use_supported_modes
from zoo.paths import given_path

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
_PATIENCE = 8.0  # seconds to wait for a server's answer


def create_model(
    arch: ArchLike,
    dim: int,
    pretrained: bool | str | Path = False,
    pool: str | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    metric: str = COSINE,
    arch_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make an embedding model: a timm backbone, pooling, and a linear head of ``dim`` outputs.

    The head is initialised orthogonally (as in "Embedding Transfer with Label Relaxation", CVPR 2021). The model takes
    float32 ``(N, 3, H, W)``, normalised as its preprocessing says, and returns ``(N, dim)``, not normalised.

    Args:
        arch: a timm architecture, with or without a weight tag (``resnet18``, ``resnet18.a1_in1k``); or a module of
            your own that returns ``(N, dim)``, which is used unchanged.
        dim: dimensions of the embedding.
        pretrained: True for timm's published weights, or the path of a local ``.safetensors`` file with the backbone's
            weights. A head in it is used only if it has the same size and the file is in a model folder saved by this
            project. False for random weights.
        pool: ``avg``, ``max``, ``avgmax`` (the papers' average + max, halved) or any other that timm knows; None for
            the architecture's own, which also replaces avgmax, with a warning, if the architecture lacks it.
        image_size: side of the square network input, pixels; None for the architecture's own.
        crop_pct: fraction of the resized image that the centre crop keeps; None for the architecture's own.
        metric: how the embeddings are compared, "cosine" or "euclidean".
        arch_options: more arguments of ``timm.create_model``, such as ``{"pad_type": "same"}``.

    Raises:
        ModelError: the architecture is unknown, or its weights are missing or do not fit.
        OptionError: an option is out of range.
    """
    if dim < 1:
        raise OptionError(f"dim is {dim}; an embedding needs at least 1 dimension.")
    require_valid({"dim": dim, "image_size": image_size})
    if image_size is not None:
        Preprocessing(input_size=(image_size, image_size), crop_pct=1.0 if crop_pct is None else crop_pct)
    if not isinstance(arch, str):
        return as_student(arch, dim, image_size, crop_pct, metric)
    _require_architecture(arch)
    more = dict(arch_options or {})
    _require_free(more)
    overlay = taken_overlay(more)
    if crop_pct is not None:
        overlay["crop_pct"] = crop_pct
    options: dict[str, Any] = {"num_classes": dim}
    if pool is not None:
        options["global_pool"] = pool
    if image_size is not None:
        overlay["input_size"] = (3, image_size, image_size)
        overlay["pool_size"] = None
        overlay["test_input_size"] = None
        if timm.get_pretrained_cfg_value(arch, "fixed_input_size"):
            options["img_size"] = image_size
    if isinstance(pretrained, str | Path):
        pretrained = given_path(pretrained)
        overlay["file"] = str(_require_safetensors(pretrained))
        overlay["num_classes"] = _classes_in(pretrained, timm.get_pretrained_cfg_value(arch, "classifier"))
    elif pretrained:
        overlay |= _published_weights(arch)
    make = partial(timm.create_model, arch, pretrained=bool(pretrained), pretrained_cfg_overlay=overlay, **more)
    try:
        model = make(**options)
    except Exception as error:  # timm, torch, safetensors and the hub raise many kinds for weights that do not fit
        source = f"weights {pretrained}" if isinstance(pretrained, str | Path) else f"pretrained={pretrained}"
        asked = f"{arch} with {source}, pool={pool}, image_size={image_size}"
        if pool is None:
            raise ModelError(f"Cannot make {asked}: {first_line(error)}") from error
        try:
            model = make(**{name: value for name, value in options.items() if name != "global_pool"})
        except Exception:
            raise ModelError(f"Cannot make {asked}: {first_line(error)}") from error
        if pool != "avgmax":
            raise ModelError(f"{arch} has no pooling {pool!r} ({first_line(error)}) Set pool to null.") from error
        log.warning("%s has no avgmax pooling; using its own", arch)
    use_supported_modes(model)
    if isinstance(pretrained, Path):
        _require_loaded(model, pretrained)
    goes_on = isinstance(pretrained, Path) and overlay["num_classes"] == dim and _is_of_ours(pretrained)
    for layer in () if goes_on else head_of(model).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    size = preprocessing_of(model).input_size  # raises if image_size or crop_pct cannot work
    if image_size is not None:
        _require_size(model, arch, size)
    set_facts(model, ModelFacts(metric=metric))
    return model


def pretrained_available(arch: str) -> bool:
    """Return whether an architecture's published weights are on this machine or can be downloaded now.

    Args:
        arch: a timm architecture.

    Raises:
        ModelError: the architecture is unknown.
    """
    _require_architecture(arch)
    try:
        _published_weights(arch)
    except ModelError:
        return False
    return bool(timm.is_model_pretrained(arch))


def classifier_of(arch: str, pretrained: bool | str | Path) -> np.ndarray | None:
    """Return the weights of the classifier that a network was pretrained with, ``(C, F)``, or None without one.

    Its rows are directions that separate the classes of the pretraining.

    Args:
        arch: a timm architecture.
        pretrained: True for timm's published weights, or the path of a ``.safetensors`` file.

    Raises:
        ModelError: the weights cannot be read or downloaded.
    """
    if isinstance(pretrained, bool):
        if not pretrained:
            return None
        head = linear_head_of(timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=_published_weights(arch)))
        weight = None if head is None else head.weight.detach()
    else:
        name = timm.get_pretrained_cfg_value(arch, "classifier")
        key = f"{name if isinstance(name, str) else (name or ('',))[0]}.weight"
        try:
            with safe_open(_require_safetensors(given_path(pretrained)), framework="pt") as file:
                weight = file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"Weight file {pretrained} cannot be read ({error}). Save or download it again."
            ) from error
    if weight is None or weight.flatten(1).shape[0] < 2:
        return None
    return weight.flatten(1).float().numpy()


def pretrained_source(folder: str | Path) -> bool | Path | None:
    """Return the initial weights of the model in a folder, to measure the network before training.

    A published model folder holds only the weight file's name and digest. Its path is in ``options.json`` beside them,
    or, for a student finished for int8, in the ``options.json`` of the student it was finished from.

    Returns:
        True for timm's published weights, False for random ones, the path of a weight file that still exists with the
        same content, or None if the file is gone or changed, or nothing is known.

    Raises:
        ModelError: a file in the folder is not valid JSON.
    """
    folder = given_path(folder)
    options = _options_in(folder)
    if "pretrained" not in options and isinstance(options.get("student"), str):
        options = _options_in(Path(options["student"])) or options
    if "pretrained" not in options:
        facts = _json_in(folder / "config.json").get(FACTS_KEY)
        made_with = facts.get("options") if isinstance(facts, dict) else None
        options = made_with if isinstance(made_with, dict) else {}
    given = options.get("pretrained")
    if given is None or isinstance(given, bool):
        return given
    file = given_path(str(given))
    return file if file.is_file() and digest(file)[:16] == options.get("pretrained_digest") else None


def _options_in(folder: Path) -> dict[str, Any]:
    return _json_in(folder / "options.json")


def _json_in(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_document(file)
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON ({first_line(error)}). Train or download it again.") from error


def taken_overlay(arch_options: dict[str, Any]) -> dict[str, Any]:
    """Remove ``pretrained_cfg_overlay`` from network arguments, and return it; empty if it is missing or null.

    Raises:
        OptionError: it is not a mapping.
    """
    overlay = arch_options.pop("pretrained_cfg_overlay", None)
    if overlay is not None and not isinstance(overlay, Mapping):
        raise OptionError(f"pretrained_cfg_overlay of arch_options is {shown(overlay)}; it must be a mapping.")
    return dict(overlay or {})


def _require_free(arch_options: Mapping[str, Any]) -> None:
    """Refuse network arguments that have their own options."""
    own = {"model_name": "arch", "num_classes": "dim", "global_pool": "pool", "img_size": "image_size"}
    own |= {"pretrained_cfg": "pretrained", "pretrained": "pretrained"}
    for name in arch_options:
        if name in own:
            raise OptionError(f"arch_options has {name}; give it as {own[name]}.")


def _is_of_ours(weights: Path) -> bool:
    """Return whether a weight file is in a model folder saved by this project, so that its head makes embeddings."""
    return FACTS_KEY in _json_in(weights.parent / "config.json")


def _require_architecture(arch: str) -> None:
    if timm.is_model(arch):
        return
    known = timm.list_models()
    raise ModelError(
        f"Unknown architecture {arch!r}.{did_you_mean(arch.partition('.')[0], known)} "
        f"timm.list_models() names all {len(known)}."
    )


def _published_weights(arch: str) -> dict[str, Any]:
    """Return the place of an architecture's published weights on this machine, or check that they can be downloaded.

    The check is one short request; the hub's own client would try for minutes.

    Raises:
        ModelError: the weights are not here and cannot be downloaded.
    """
    config = timm.get_pretrained_cfg(arch)
    if config is None or not config.hf_hub_id:
        return {}  # timm decides
    name = config.hf_hub_filename or WEIGHTS
    try:
        here = huggingface_hub.hf_hub_download(config.hf_hub_id, name, local_files_only=True)
        return {} if config.custom_load or config.hf_hub_filename else {"file": here}
    except (OSError, ValueError):  # not here
        pass
    reason = "" if constants.HF_HUB_OFFLINE else obstacle_to(huggingface_hub.hf_hub_url(config.hf_hub_id, name))
    if reason is not None:
        raise ModelError(
            f"The published weights of {arch} are not on this machine, and cannot be downloaded"
            f"{f' ({reason})' if reason else ''}. Copy {name} of {config.hf_hub_id} from a machine with a network, "
            "and pass its path as pretrained."
        )
    return {}


def obstacle_to(url: str) -> str | None:
    """Return why a server does not answer within 8 seconds, or None if it answers, whatever its status."""
    answers: list[str | None] = []

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(url, timeout=_PATIENCE / 2)
            answers.append(None)
        except Exception as error:  # depends on the HTTP library that the hub's client uses
            answers.append(first_line(error))

    asking = Thread(target=ask, daemon=True)  # name resolution has no timeout
    asking.start()
    asking.join(_PATIENCE)
    return answers[0] if answers else f"no answer within {_PATIENCE:g} s"


def _require_size(model: nn.Module, arch: str, size: tuple[int, int]) -> None:
    """Run the model on an image, because only that shows whether its patches and strides fit."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, *size))
    except Exception as error:  # each architecture raises its own
        reason = first_line(error)
        raise OptionError(
            f"{arch} cannot take images of {size[0]} pixels ({reason}). Choose another image_size."
        ) from error
    finally:
        model.train()


def _classes_in(path: Path, classifier: str | tuple[str, ...] | None) -> int:
    """Return the number of outputs of the head in a weight file, so that timm drops one of another size; 0 if none."""
    name = classifier if isinstance(classifier, str) else (classifier or ("",))[0]
    try:
        with safe_open(path, framework="pt") as file:
            key = f"{name}.weight"
            return int(file.get_slice(key).get_shape()[0]) if key in file.keys() else 0  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Weight file {path} cannot be read ({error}). Save or download it again.") from error


def _require_loaded(model: nn.Module, path: Path) -> None:
    """Refuse a weight file if most of the network's weights did not come from it: timm ignores unknown names."""
    head = {id(parameter) for parameter in head_of(model).parameters()}
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        held = {(tuple(tensor.shape), float(tensor.double().sum())) for tensor in map(file.get_tensor, names)}
    body = {name: weight.detach() for name, weight in model.named_parameters() if id(weight) not in head}
    body = {name: weight for name, weight in body.items() if weight.min() < weight.max()}  # constants prove nothing
    found = [weight.numel() for weight in body.values() if (tuple(weight.shape), float(weight.double().sum())) in held]
    if sum(found) < sum(weight.numel() for weight in body.values()) / 2:
        raise ModelError(
            f"Weight file {path} does not fit {summary_of(model)['architecture']}: {len(found)} of its {len(body)} "
            f"tensors were found. The file names {names[0] if names else 'none'}, the network {next(iter(body))}."
        )


def _require_safetensors(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"Weight file {path} does not exist. Check the path given as pretrained.")
    if path.suffix != ".safetensors":
        raise ModelError(
            f"Weight file {path} is not a .safetensors file, and pickles are not loaded. Convert it with "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')."
        )
    return path
