"""Save and load models as folders in timm's own format.

Facts that timm has no field for (metric, loss, data, seed, measured recall) are stored as
:class:`~zoo.models.facts.ModelFacts`, under one key of the folder's ``config.json``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.errors import ModelError, did_you_mean, first_line, shown
from zoo.files import as_any_new_file, digest, full_disk_named, write_json, write_text
from zoo.formats.model_config import FACTS_KEY, MODULE_KEY, read_config, require_sealed, sealed
from zoo.models.card import model_card
from zoo.models.embedding import run, vectors_of
from zoo.models.facts import ModelFacts, facts_of, set_facts, without_places
from zoo.models.network import as_student, preprocessing_of, summary_of
from zoo.models.weights import require_filled, require_no_larger, require_same_shapes, shapes_in
from zoo.paths import expanded, given_path

log = logging.getLogger(__name__)

_LARGEST_TRIED = 1024  # pixels of a side; larger images may take more memory than the check is worth


def load_model(path: str | Path, network: nn.Module | None = None, modes: Mapping[str, str] | None = None) -> nn.Module:
    """Load a model folder in timm's format, in eval mode.

    Args:
        path: the folder.
        network: your own module, if the folder holds its weights; they are loaded into it. None for timm's networks.
        modes: preprocessing modes (``interpolation``, ``crop_mode``) that replace the folder's.

    Raises:
        ModelError: the folder or a file in it is missing or damaged, or its weights do not match the network that its
            configuration describes exactly.
    """
    path = given_path(path)
    config_file, weights_file = path / "config.json", path / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ModelError(f"{file} does not exist; {path} is not a finished model folder. Check the path.")
    config = read_config(config_file, modes=modes)
    if config.get(MODULE_KEY):
        return _into_module(path, config, network)
    if not timm.is_model(config["architecture"]):
        raise ModelError(
            f"{config_file} is not a timm model configuration (unknown architecture {shown(config['architecture'])})."
            f"{did_you_mean(config['architecture'][:100], timm.list_models())} Upgrade timm, or train it again."
        )
    ours = FACTS_KEY in config
    make = partial(timm.create_model, f"local-dir:{path}", pretrained_cfg_overlay=dict(modes or {}))
    held = shapes_in(weights_file)
    wanted = require_no_larger(make, weights_file, held)
    if ours and wanted is not None:
        require_same_shapes(weights_file, held, wanted)
    said = require_sealed(config_file, config)
    _require_intact(weights_file, said)
    try:
        model = make(pretrained=not ours)
        if ours:
            model.load_state_dict(load_file(weights_file), strict=True)
    except (AttributeError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise ModelError(
            f"{config_file} is not a timm model configuration ({first_line(error)}). Train or download it again."
        ) from error
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        # torch names the tensors in the second line.
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]
        raise ModelError(f"{weights_file} cannot be loaded ({reason}). Train or download it again.") from error
    if not ours:
        require_filled(model, weights_file, partial(make, pretrained=True))
    set_facts(model, facts_in(config))
    model.eval()
    if said is None:  # a sealed model has embedded images before it was saved
        _require_vectors(model, config_file)
    return model


def save_model(model: nn.Module, path: str | Path) -> None:
    """Save a model as a folder in timm's format: model.safetensors, README.md, config.json.

    Each file is written whole or not at all, config.json last, so a folder with a config.json is finished. Absolute
    paths are reduced to the names of files and folders.
    ``timm.create_model("local-dir:PATH", pretrained=True)`` loads it without this project.
    """
    path = given_path(path)
    path.mkdir(parents=True, exist_ok=True)
    shipped = without_places(facts_of(model))
    facts = asdict(shipped)
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving.") as temporary:
        on_cpu = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        on_cpu.register_state_dict_post_hook(_unshare)
        weights, config = Path(temporary) / "model.safetensors", Path(temporary) / "config.json"
        with full_disk_named(path):
            if timm.is_model(summary_of(model)["architecture"]):
                timm.models.save_for_hf(on_cpu, temporary, model_config={FACTS_KEY: facts}, safe_serialization=True)
            else:
                save_file(on_cpu.state_dict(), weights)
                write_json(config, _config_of_module(model) | {FACTS_KEY: facts})
        as_any_new_file(weights)
        content = json.loads(config.read_text(encoding="utf-8"))
        content.get("model_args", {}).pop("num_classes", None)  # also beside it; transformers would pass it twice
        write_json(config, sealed(content, digest(weights)))
        os.replace(weights, path / "model.safetensors")
        write_text(path / "README.md", model_card(path.name, summary_of(model), shipped))
        os.replace(config, path / "config.json")


def _config_of_module(module: nn.Module) -> dict[str, Any]:
    """Return the ``config.json`` of a user's own module, whose code is not in the folder."""
    summary = summary_of(module)
    about = preprocessing_of(module).as_pretrained_cfg()
    return {
        "architecture": summary["architecture"],
        "num_classes": summary["dim"],
        "pretrained_cfg": about,
        MODULE_KEY: True,
    }


def _into_module(path: Path, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """Load the weights in a folder into a user's own module."""
    name = config["architecture"]
    if network is None:
        raise ModelError(
            f"{path} holds the weights of a module of your own, {shown(name)}, whose code is not in it. Load it in "
            "Python: load_model(folder, network=your_module)."
        )
    weights = path / "model.safetensors"
    _require_intact(weights, require_sealed(path / "config.json", config))
    try:
        network.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{weights} does not fit {type(network).__name__} ({first_line(error)}).") from error
    network.pretrained_cfg = config["pretrained_cfg"]
    facts = facts_in(config)
    as_student(network, config["num_classes"], None, None, facts.metric)
    set_facts(network, facts)
    return network.eval()


def folder_named(name: str, other_than: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder that a name refers to; None if there is none or timm's network is meant.

    A name that timm knows, such as ``resnet18``, means timm's network unless a model folder (with a ``config.json``)
    has that name. If both exist, the log says which was taken.

    Args:
        name: the name given; with a path separator, it is a path.
        other_than: the output folder, which is never meant.
    """
    folder = expanded(name)
    if not folder.is_dir():
        return None
    if folder.name != name or not timm.is_model(name):
        return folder
    is_written_to = other_than is not None and folder.resolve() == expanded(other_than).resolve()
    if is_written_to or not (folder / "config.json").is_file():
        log.info("%s is timm's network; the folder of that name is not meant. Write ./%s for the folder.", name, name)
        return None
    log.warning(
        "%s is the model folder of that name here, and not timm's network. Rename the folder if you mean timm's.",
        name,
    )
    return folder


def facts_in(config: dict[str, Any]) -> ModelFacts:
    """Return the facts in a configuration."""
    known = {f.name for f in fields(ModelFacts)}
    return ModelFacts(**{name: value for name, value in config.get(FACTS_KEY, {}).items() if name in known})


def _require_vectors(model: nn.Module, config_file: Path) -> None:
    """Refuse a network that returns no vector for an image: values may be valid alone but not fit together."""
    height, width = preprocessing_of(model).input_size
    if max(height, width) > _LARGEST_TRIED:
        return
    try:
        with torch.inference_mode():
            vectors_of(model, run(model, torch.zeros(1, 3, height, width)))
    except ModelError as error:
        raise ModelError(
            f"{config_file} describes a network that makes no vector of an image of {height} x {width} pixels. "
            f"{first_line(error)} If its config.json is damaged, download it again."
        ) from error


def _require_intact(weights: Path, said: str | None) -> None:
    if said is not None and (found := digest(weights)) != said:
        raise ModelError(
            f"{weights} has changed since it was written: its digest is {found[:16]}, and config.json says "
            f"{said[:16]}. It is damaged, or of another model. Train or download the folder again."
        )


def _unshare(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Copy every tensor, because modules may share tensors and safetensors refuses shared memory."""
    for name, tensor in state.items():
        state[name] = tensor.clone()
