"""timm networks as teachers: ``timm:NAME``, ``timm:FOLDER`` and ``hf-hub:OWNER/NAME``."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from zoo.errors import ModelError, OptionError, did_you_mean, first_line
from zoo.models.facts import facts_of
from zoo.models.folder import folder_named, load_model
from zoo.teachers.address import Address
from zoo.teachers.families.published import published_folder
from zoo.teachers.foreign import is_of_published_classes

OUTPUTS = ("head", "pooled", "cls", "mean")
_FILES = ["config.json", "model.safetensors"]


def open_timm(address: Address) -> tuple[nn.Module, list[str]]:
    """Load a timm network without its classifier, with published weights or from a folder.

    The vector is the pooled features. A head that makes embeddings stays: CLIP's projection (the network's name has
    ``clip``, and its head has no published data set's number of classes), and the head of a network trained by this
    project.

    Returns:
        The network, and notes.

    Raises:
        ModelError: the network or its weights are unknown, or the weights are not here and cannot be downloaded.
        OptionError: the network has no such output.
    """
    address.require_output_among(OUTPUTS)
    network = load_model(_folder(address), modes=address.options.modes)
    name = str(network.pretrained_cfg.get("architecture", ""))  # type: ignore[union-attr, operator]
    count = int(getattr(network, "num_classes", 0))
    embeds = facts_of(network).loss is not None or ("clip" in name and not is_of_published_classes(count))
    if count == 0 or address.output == "head" or (address.output is None and embeds):
        return network, []
    pool = {"cls": "token", "mean": "avg"}.get(address.output or "")
    try:
        network.reset_classifier(0, *([] if pool is None else [pool]))  # type: ignore[operator]
    except Exception as error:  # each architecture raises its own
        raise OptionError(f"Teacher {address.text} has no #{address.output} ({first_line(error)}).") from error
    taken = f"#{address.output}" if address.output else "its pooled features"
    return network.eval(), [f"its classifier of {count:,} classes is left out: {taken} are taken. #head keeps it."]


def _folder(address: Address) -> Path:
    """Return the folder with a network's configuration and weights.

    Raises:
        ModelError: the network is unknown, or its weights are not here and cannot be downloaded.
    """
    if (folder := folder_named(address.name)) is not None:
        return folder
    if address.family == "hf-hub":
        return published_folder(address.name, _FILES)
    if not timm.is_model(address.name):
        near = did_you_mean(address.name.partition(".")[0], timm.list_models())
        raise ModelError(f"Teacher {address.text}: there is neither such a folder nor such a network in timm.{near}")
    config = timm.get_pretrained_cfg(address.name)
    if config is None or not config.hf_hub_id:
        raise ModelError(
            f"Teacher {address.text}: timm publishes no weights of it on the hub. timm.list_pretrained() names those "
            "that have some."
        )
    return published_folder(config.hf_hub_id, _FILES)
