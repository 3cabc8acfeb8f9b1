"""Resolve the option ``arch``: a timm architecture, or a model folder to continue from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import ModelError, OptionError
from zoo.formats.model_config import FACTS_KEY, read_config
from zoo.paths import is_folder

_WEIGHTS = "model.safetensors"
_TAKEN = ("num_classes", "global_pool", "img_size")  # these have their own options
_OVERLAY = ("mean", "std", "interpolation", "crop_mode")  # the folder's preprocessing, apart from size and crop


def with_folder(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verb's options; if ``arch`` is a model folder, replace it by the folder's architecture and weights.

    The folder is timm's, or saved by ``train`` or ``distill``. Its weights become ``pretrained``; pooling, size, crop
    and arguments of the network come from the folder unless given. A model saved by this project with the same ``dim``
    keeps its head and metric, so its training continues; otherwise the head is new. If a model folder has the name of
    a timm architecture, the folder is taken, unless it is the output folder.

    Raises:
        ModelError: the folder is not a model folder.
        OptionError: ``pretrained`` is given too.
    """
    arch = options["arch"]
    if not isinstance(arch, str) or not is_folder(arch):
        return dict(options)
    from zoo.models.folder import folder_named  # both import torch, which --help does not need
    from zoo.models.making import taken_overlay

    if (folder := folder_named(arch, other_than=options.get("out"))) is None:
        return dict(options)
    config, weights = read_config(folder / "config.json", to_train=True), folder / _WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{weights} does not exist, so nothing can be continued. Check the path given as arch.")
    if options["pretrained"] is not False:
        raise OptionError(f"arch is the folder {arch}, which has weights of its own. Remove pretrained.")
    about = config.get("pretrained_cfg", config)
    height, width = about.get("input_size", (3, 224, 224))[1:]
    given = dict(options.get("arch_options") or {})
    overlay = {name: about[name] for name in _OVERLAY if name in about} | taken_overlay(given)
    own = {name: value for name, value in config.get("model_args", {}).items() if name not in _TAKEN}
    result = dict(options) | {"arch": config["architecture"], "pretrained": str(weights)}
    result["arch_options"] = own | given | {"pretrained_cfg_overlay": overlay}
    if options.get("pool") == "auto":
        result["pool"] = config.get("global_pool")
    if options.get("image_size") is None and height == width:
        result["image_size"] = height
    if options.get("crop_pct") is None:
        result["crop_pct"] = about.get("crop_pct")
    if FACTS_KEY in config and config.get("num_classes") == options["dim"]:
        for name in ("fit_head", "average_start"):
            result[name] = False if options.get(name) is None else options[name]
        if "metric" in options and options["metric"] is None:
            result["metric"] = config[FACTS_KEY].get("metric")
    return result
