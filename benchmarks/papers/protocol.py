"""What the papers' tables share: the protocol on Omniglot, the command line, how a model folder is measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Options
from zoo import ImageSet, load_model, measure
from zoo.models.embedding import embed
from zoo.models.facts import facts_of

SPLITS = Path(__file__).resolve().parents[2] / "configs" / "splits"
SPLIT = f"list:{SPLITS / 'omniglot.yaml'}"
"""Characters of the first small background set train, those that only the second has test."""
HELD_OUT = "omniglot-validation"
"""Name of the split that holds two of the training alphabets out, to choose by."""


def arguments(
    description: str | None,
    data: str | None = "folder:PATH of Omniglot's two small background sets",
    seeds: Sequence[int] = (0, 1, 2),
    tuned: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser of the options that the tables have.

    Args:
        description: the script's docstring.
        data: what ``--data`` takes; None for a script without it.
        seeds: that run where none are named.
        tuned: whether there is something to tune.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("--data", required=True, help=data)
    if tuned:
        parser.add_argument(
            "--tune", action="store_true", help="choose each method's options; without it, run with them"
        )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder for the runs")
    return parser


def sets_of_options(option: str, tried: Sequence[tuple[float, float]]) -> list[Options]:
    """Return what a grid tries: a rate and a value of one of the loss's options in each set."""
    return [{"lr": lr, "loss_options": {option: value}} for lr, value in tried]


def measured(folder: Path, images: ImageSet) -> dict[str, Any]:
    """Return what a model folder retrieves among images: Recall@K, R-Precision, MAP@R."""
    model = load_model(folder)
    return measure(embed(model, images), images, facts_of(model).metric).summary()


def validated(folder: Path) -> dict[str, Any]:
    """Return what a model folder measured on its validation classes when its epoch was chosen."""
    found: dict[str, Any] = facts_of(load_model(folder)).measured["validation"]
    return found


def validated_map_at_r(line: dict[str, Any]) -> float:
    """Return MAP@R on the validation classes from the line of a run, by which its options are chosen."""
    score: float = line["validation"]["map_at_r"]
    return score


def every_fourth(labels: np.ndarray) -> np.ndarray:
    """Return which images are the fourth, eighth ... of their class, bool ``(N,)``: a quarter to judge by.

    Args:
        labels: int ``(N,)``.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[3::4]] = True
    return chosen
