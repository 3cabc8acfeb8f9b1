"""Choose the input and output of a foreign ONNX file, and pool its tokens into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zoo.errors import ModelError, OptionError

# Names that exporters use, best first: models compare their projections.
_EMBEDDINGS = ("image_embeds", "embedding", "embeddings", "sentence_embedding", "pooler_output")
_OF_TWO_SIDES = ("logits_per_image", "logits_per_text", "text_embeds")
_TOKENS = 8  # length of the dummy text for files that need one


def image_input(path: Path, inputs: Sequence[Any]) -> Any:
    """Return the one input that takes images.

    Args:
        path: path of the file, for messages.
        inputs: inputs of an onnxruntime session.

    Raises:
        ModelError: none or several have four dimensions.
    """
    images = [each for each in inputs if len(each.shape) == 4]
    if len(images) != 1:
        raise ModelError(
            f"Teacher {path} must have one image input, found {', '.join(map(described, inputs)) or 'none'}."
        )
    return images[0]


def chosen_output(path: Path, outputs: Sequence[Any], name: str | None, pooling: str | None) -> Any:
    """Return the output to use: the one named, or the first that has vectors.

    Args:
        path: path of the file, for messages.
        outputs: outputs of an onnxruntime session.
        name: the name given, or None.
        pooling: pooling of tokens, "cls" or "mean", or None.

    Raises:
        OptionError: there is no such output, it has tokens but no pooling is given, it has vectors but a pooling is
            given, or none has vectors.
    """
    listed = f"Its outputs are {', '.join(map(described, outputs))}."
    named = {each.name: each for each in outputs}
    if name is not None:
        if name not in named:
            raise OptionError(f"Teacher {path} has no output {name!r}. {listed}")
        found = named[name]
    else:
        rank = {each.name: len(each.shape) if each.shape else None for each in outputs}
        known = [each for each in _EMBEDDINGS if each in named and rank[each] in (None, 2)]
        vectors = [each.name for each in outputs if rank[each.name] in (None, 2) and each.name not in _OF_TWO_SIDES]
        picked = next(iter([*known, *vectors]), outputs[0].name if len(outputs) == 1 else None)
        if picked is None:
            raise OptionError(f"Teacher {path} gives no vectors (N, D). {listed} {_remedy(path, outputs)}")
        found = named[picked]
    if found.shape and len(found.shape) == 2 and pooling is not None:
        raise OptionError(f"Teacher {path}: {described(found)} has vectors, not tokens. Leave :{pooling} out.")
    if found.shape and len(found.shape) == 3 and pooling is None:
        raise OptionError(f"Teacher {path}: {described(found)} has tokens, not vectors. {_remedy(path, [found])}")
    return found


def described(value: Any) -> str:
    """Return an input's or output's name and shape, such as ``pooler_output (batch, 768)``."""
    return f"{value.name} ({', '.join('?' if side is None else str(side) for side in value.shape)})"


def _remedy(path: Path, outputs: Sequence[Any]) -> str:
    tokens = next((each.name for each in outputs if len(each.shape) == 3), outputs[0].name)
    return f"Pool tokens with {path.name}#{tokens}:cls or {path.name}#{tokens}:mean."


def require_image_side(path: Path, output: str, others: Sequence[str]) -> None:
    """Refuse an output that depends on inputs other than the image.

    Args:
        path: path of the file.
        output: the output to use.
        others: the inputs that must not matter.

    Raises:
        OptionError: the output depends on one of them.
    """
    if not others:
        return
    graph = onnx.load(path, load_external_data=False).graph
    made_by = {name: node for node in graph.node for name in node.output}
    waiting, seen = [output], set()
    while waiting:
        name = waiting.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name in made_by:
            waiting += _given_to(made_by[name])
    if reached := [name for name in others if name in seen]:
        raise OptionError(
            f"Teacher {path}: {output} depends on {', '.join(reached)} beside the image. Take an output of the image "
            "alone, such as image_embeds."
        )


def _given_to(node: Any) -> list[str]:
    """Return the names that a node reads, including those in its subgraphs."""
    inner = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return [*node.input, *(name for graph in inner for each in graph.node for name in _given_to(each))]


def fillers(inputs: Sequence[Any], image: Any, count: int) -> dict[str, np.ndarray]:
    """Return dummy values for the inputs other than the image, on which the output does not depend.

    Args:
        inputs: inputs of an onnxruntime session.
        image: the one that takes images.
        count: images in the batch.

    Raises:
        ModelError: an input has a type that cannot be filled.
    """
    kinds = {"int64": np.int64, "int32": np.int32, "float": np.float32, "float16": np.float16, "bool": np.bool_}
    given: dict[str, np.ndarray] = {}
    for each in inputs:
        if each.name == image.name:
            continue
        dtype = kinds.get(each.type.removeprefix("tensor(").removesuffix(")"))
        if dtype is None:
            raise ModelError(f"The input {each.name} of {each.type} cannot be filled in; export the image side alone.")
        shared = image.shape[0]
        sides = [
            side if isinstance(side, int) else count if side == shared and side is not None else None
            for side in each.shape
        ]
        first = 1 if not sides or sides[0] is None else sides[0]
        given[each.name] = np.ones([first, *(side or _TOKENS for side in sides[1:])][: len(sides)], dtype)
    return given


def pooled(found: np.ndarray, pooling: str | None) -> np.ndarray:
    """Pool tokens ``(N, T, D)`` or maps ``(N, D, H, W)`` into vectors ``(N, D)``; return others unchanged.

    Maps become their spatial mean; 1 x 1 maps do even without pooling.
    """
    if found.ndim == 3 and pooling is not None:
        return np.asarray(found[:, 0] if pooling == "cls" else found.astype(np.float32).mean(axis=1))
    if found.ndim == 4 and (pooling == "mean" or found.shape[2:] == (1, 1)):
        return np.asarray(found.astype(np.float32).mean(axis=(2, 3)))
    return found
