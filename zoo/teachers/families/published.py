"""The local folder of a published model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from zoo.errors import ModelError, first_line
from zoo.models.making import obstacle_to

_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def published_folder(
    name: str, needed: Sequence[str], wanted: Sequence[str] = (), what: str = "Teacher", more: Sequence[str] = ()
) -> Path:
    """Return the local folder of a model on the Hugging Face hub; download it if it is not here yet.

    A short request comes before the download, because the hub's own client would try for minutes.

    Args:
        name: ``owner/name`` on the hub.
        needed: patterns of files that every model needs.
        wanted: patterns of files that most models have; a local copy without them is completed.
        what: the model's role, put before its name in messages.
        more: patterns of files that are downloaded too.

    Raises:
        ModelError: the model is not here and cannot be downloaded, or lacks a needed file.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"{what} {name!r} is neither a folder that exists nor a name on the hub, such as owner/name.")
    patterns = [*needed, *wanted, *more]
    try:
        here = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if not _missing(here, [*needed, *wanted]):
            return here
    except (OSError, ValueError):  # not here
        pass
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else obstacle_to(constants.ENDPOINT)
    if reason is None:
        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
        except Exception as error:  # the client and the libraries below it raise many kinds
            reason = first_line(error)
        else:
            if missing := _missing(folder, needed):
                raise ModelError(
                    f"{what} {name} has no {missing[0]} on the hub; weights must be safetensors, not pickles."
                )
            return folder
    raise ModelError(
        f"{what} {name} is not on this machine, and cannot be downloaded ({reason}). Download its folder on a "
        f"machine with a network (hf download {name} --local-dir FOLDER), and give FOLDER instead of the name."
    )


def _missing(folder: Path, patterns: Sequence[str]) -> list[str]:
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]
