"""The ``config.json`` of a model folder, in timm's format with additional keys, read with types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ModelError, OptionError, first_line, shown
from zoo.formats.documents import FLAG, MAPPING, TEXT, maybe, one_of, read_document, require_kinds, seal_of, whole
from zoo.formats.preprocessing import Preprocessing, with_supported_modes

FACTS_KEY = "embedding_compressor"
"""The key of a model's facts in its ``config.json``."""
DIGESTS_KEY = f"{FACTS_KEY}_digests"
MODULE_KEY = f"{FACTS_KEY}_module"
"""True if the weights belong to a user's own module, not to a timm network."""
_CLASSES = whole(0, 10**7)
_LARGEST_ARGUMENT = 65536  # for widths, depths and the like; larger values make endless networks
_TIMM = {"num_classes": _CLASSES, "num_features": maybe(whole(0)), "model_args": MAPPING, "pretrained_cfg": MAPPING}
_FACTS = {"loss": maybe(TEXT), "teacher": maybe(MAPPING), "metric": one_of("cosine", "euclidean")} | dict.fromkeys(
    ("options", "data", "measured", "versions"), MAPPING
)
_DIGESTS = {"weights": TEXT, "config": TEXT}


def read_config(file: Path, to_train: bool = False, modes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a model folder's configuration, and check every value that is used.

    Args:
        file: the ``config.json``.
        to_train: accept unsupported preprocessing modes, because training can use other modes.
        modes: preprocessing modes that replace the configuration's, under timm's names.

    Raises:
        ModelError: it is not such a configuration; names the key, its value, and what it must be.
    """
    try:
        config = read_document(file)
        require_kinds(
            config, {"architecture": TEXT}, _TIMM | {FACTS_KEY: MAPPING, DIGESTS_KEY: MAPPING, MODULE_KEY: FLAG}
        )
        arguments, about = config.get("model_args", {}), config.get("pretrained_cfg", config)
        require_kinds(about, {}, {"num_classes": _CLASSES})
        require_kinds(arguments, {}, {"num_classes": _CLASSES})
        _require_small(arguments, "model_args")
        supported, unsupported = with_supported_modes(dict(about) | dict(modes or {}))
        Preprocessing.of(supported)
        facts = config.get(FACTS_KEY, {})
        require_kinds(facts, {}, _FACTS)
        require_kinds(config.get(DIGESTS_KEY, {}), {}, _DIGESTS)
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}). Check its permissions.") from error
    except (ValueError, OptionError) as error:
        raise ModelError(
            f"{file} is not a timm model configuration ({first_line(error)}). Train or download it again."
        ) from error
    if unsupported and not to_train:
        raise ModelError(
            f"{file}: {unsupported[0].partition(';')[0]}, so images would not be prepared as the network expects. Name "
            f"another after its path, as in {file.parent.name}#interpolation=bicubic,resize=center, and compare; or "
            "train a student from it."
        )
    return config


def sealed(config: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Return a configuration with the digest of its weights and its own digest.

    Args:
        config: the configuration without digests.
        weights: SHA-256 of ``model.safetensors``.
    """
    return dict(config) | {DIGESTS_KEY: {"weights": weights, "config": seal_of(config)}}


def require_sealed(file: Path, config: Mapping[str, Any]) -> str | None:
    """Refuse a configuration that was changed after it was written; one without digests passes.

    Returns:
        The digest that its weights must have, or None.

    Raises:
        ModelError: it was changed; names both digests.
    """
    plain = dict(config)
    digests = plain.pop(DIGESTS_KEY, {})
    found, said = seal_of(plain), digests.get("config")
    if said is not None and found != said:
        raise ModelError(
            f"{file} has changed since it was written: its digest is {found[:16]}, but it says {said[:16]}. If you "
            f"changed it on purpose, remove {DIGESTS_KEY!r} from it; otherwise train or download it again."
        )
    weights: str | None = digests.get("weights")
    return weights


def _require_small(value: Any, where: str, depth: int = 0) -> None:
    if depth > 8:
        raise ValueError(f"{where} is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _require_small(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _require_small(item, where, depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST_ARGUMENT:
        raise ValueError(f"{where} is {shown(value)}; it must be at most {_LARGEST_ARGUMENT}")
    elif isinstance(value, str) and len(value) > 1000:
        raise ValueError(f"{where} is text of {len(value)} characters; it must have at most 1000")
