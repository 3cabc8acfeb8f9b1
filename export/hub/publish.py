"""The verb publish: upload a hub folder to the Hugging Face Hub after confirmation."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from zoo.errors import ModelError, OptionError, first_line, shown
from zoo.extras import require_extra
from zoo.paths import given_path

log = logging.getLogger(__name__)

_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")


def publish(folder: str | Path, repo: str, *, private: bool = False, yes: bool = False) -> str:
    """Upload a folder of export --layout hub to the Hugging Face Hub.

    Logs what will be uploaded and where before anything is sent. Nothing is uploaded without confirmation: on a
    terminal by a question, elsewhere by ``yes``. The token is huggingface_hub's own, from ``hf auth login`` or
    HF_TOKEN.

    Args:
        folder: the folder that export --layout hub wrote.
        repo: name of the repository, USER/NAME; created if it does not exist.
        private: create the repository as private; an existing one stays as it is.
        yes: upload without asking.

    Returns:
        The address of the repository.

    Raises:
        ModelError: the folder was not written by export --layout hub, or has changed since.
        OptionError: the name is invalid, the licence is unknown, the upload was not confirmed, or the hub refuses it.
        MissingExtraError: huggingface_hub is not installed.
    """
    place = given_path(folder)
    if not _NAME.fullmatch(repo):
        raise OptionError(f"repo is {shown(repo)}; it must be USER/NAME.")
    require_extra("hub", "publish")
    files = _files_of(place)
    license = _license_of(place)
    size = sum(file.stat().st_size for file in files)
    log.info(
        "%s/ goes to %s (%s, licence %s): %d files, %.1f MB:",
        *(place, repo, "private" if private else "public", license, len(files), size / 1e6),
    )
    for file in files:
        log.info("  %s (%.2f MB)", file.relative_to(place).as_posix(), file.stat().st_size / 1e6)
    if not yes:
        _confirm(repo)
    return _upload(place, files, repo, private)


def _files_of(place: Path) -> list[Path]:
    """Return the files to upload: those that export wrote, and LICENSE if there is one."""
    from export.hub.folder import CONFIG, OURS, is_hub_folder
    from zoo.files import digest
    from zoo.formats.model_config import read_config, require_sealed
    from zoo.formats.onnx_content import require_intact

    if not is_hub_folder(place):
        raise ModelError(f"{place} was not written by export --layout hub. Export the model as such a folder first.")
    said = require_sealed(place / CONFIG, read_config(place / CONFIG))
    if said is not None and said != digest(place / "model.safetensors"):
        raise ModelError(f"{place / 'model.safetensors'} has changed since it was written. Export the model again.")
    for file in place.rglob("*.onnx"):
        require_intact(file)
    roots = [place / name for name in (*OURS, "LICENSE")]
    within = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))]
    for file in within:
        if not file.resolve().is_relative_to(place.resolve()):
            raise ModelError(f"{file} is a link to {file.resolve()}, outside the folder. Put the file itself there.")
    return sorted(file for file in within if file.is_file() and not file.name.startswith("."))


def _license_of(place: Path) -> str:
    """Return the licence that the card names.

    Raises:
        OptionError: the card names no licence.
        ModelError: the card has no valid metadata.
    """
    from huggingface_hub import ModelCard

    try:
        license = ModelCard.load(place / "README.md").data.license
    except Exception as error:  # YAML errors, invalid metadata and undecodable text share no base class
        raise ModelError(f"{place / 'README.md'} has no valid metadata ({first_line(error)}). Export again.") from error
    if license in (None, "unknown"):
        raise OptionError(
            f"{place / 'README.md'} names no licence. Settle it with the owners of weights and data, and export again "
            "with --license."
        )
    return str(license)


def _confirm(repo: str) -> None:
    if not sys.stdin.isatty():
        raise OptionError(f"Nothing was uploaded to {repo}. Add --yes true to upload without being asked.")
    print(f"Upload to {repo}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise OptionError(f"Nothing was uploaded to {repo}.")


def _upload(place: Path, files: list[Path], repo: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        made: Any = api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(file.relative_to(place).as_posix(), str(file)) for file in files]
        api.create_commit(repo, operations, commit_message="Upload an image-embedding model")
    except Exception as error:  # errors of the hub, of the network library and of the token file share no base class
        raise OptionError(f"The hub did not take {repo}: {_reason_of(error)}") from error
    return str(made)


def _reason_of(error: Exception) -> str:
    """Return in one line why the upload failed and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 or "LocalTokenNotFound" in type(error).__name__:
        return "no valid token was found. Log in with hf auth login, or set HF_TOKEN."
    if status == 403:
        return "the token may not write there. Make one with write access, or name a repository of your own."
    return f"{first_line(error).rstrip('.')}. Check the network, and run the command again."
