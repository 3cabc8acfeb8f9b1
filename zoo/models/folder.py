"""Models on disk: saved and loaded as folders in timm's own format.

What timm has no field for (metric, loss, data, seed, measured recall) travels in
:class:`~zoo.models.facts.ModelFacts`, under one key of the folder's ``config.json``.
"""

from __future__ import annotations

import json
import os
import tempfile
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.errors import ModelError, first_line
from zoo.files import write_text
from zoo.models.card import model_card
from zoo.models.facts import ModelFacts, facts_of, set_facts
from zoo.models.network import summary_of

FACTS_KEY = "embedding_compressor"


def load_model(path: str | Path) -> nn.Module:
    """Load a model folder in timm's format, in eval mode.

    Raises:
        ModelError: the folder or a file in it is missing or broken; names it.
    """
    path = Path(path)
    config_file, weights_file = path / "config.json", path / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ModelError(f"{file} does not exist; {path} is not a finished model folder. Check the path.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        facts = dict(config.get(FACTS_KEY, {}))
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config_file} is not a timm model configuration ({error}). Train or download it anew."
        ) from error
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(f"{weights_file} cannot be loaded ({reason}). Train or download it anew.") from error
    known = {f.name for f in fields(ModelFacts)}
    set_facts(model, ModelFacts(**{name: value for name, value in facts.items() if name in known}))
    return model.eval()


def save_model(model: nn.Module, path: str | Path) -> None:
    """Save a model as a folder in timm's format: model.safetensors, README.md, config.json.

    Each file appears whole or not at all, config.json last, so a folder that has one is finished.
    ``timm.create_model("local-dir:PATH", pretrained=True)`` loads it without this project.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving.") as temporary:
        on_cpu = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        on_cpu.register_state_dict_post_hook(_unshare)
        timm.models.save_for_hf(
            on_cpu, temporary, model_config={FACTS_KEY: asdict(facts_of(model))}, safe_serialization=True
        )
        os.replace(Path(temporary) / "model.safetensors", path / "model.safetensors")
        write_text(path / "README.md", model_card(path.name, summary_of(model), facts_of(model)))
        os.replace(Path(temporary) / "config.json", path / "config.json")


def _unshare(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Give tensors that modules share a copy each: safetensors refuses shared memory."""
    for name, tensor in state.items():
        state[name] = tensor.clone()
