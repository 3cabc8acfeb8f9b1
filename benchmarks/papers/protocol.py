"""Shared by the papers' tables: the protocol on Omniglot, the command line, and measuring a model folder."""

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
"""Trains on the characters of the first small background set, tests on those that only the second has."""
HELD_OUT = "omniglot-validation"
"""Name of the split that holds out two of the training alphabets for tuning."""


def arguments(
    description: str | None,
    data: str | None = "folder:PATH of Omniglot's two small background sets",
    seeds: Sequence[int] = (0, 1, 2),
    tuned: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser with the options that the tables share.

    Args:
        description: the script's docstring.
        data: what ``--data`` takes; None for a script without it.
        seeds: default seeds.
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
    """Return the sets of options of a grid, each with a rate and a value of one option of the loss."""
    return [{"lr": lr, "loss_options": {option: value}} for lr, value in tried]


def measured(folder: Path, images: ImageSet) -> dict[str, Any]:
    """Return Recall@K, R-Precision and MAP@R of a model folder on images."""
    model = load_model(folder)
    return measure(embed(model, images), images, facts_of(model).metric).summary()


def validated(folder: Path) -> dict[str, Any]:
    """Return the measures on the validation classes that are recorded in a model folder."""
    found: dict[str, Any] = facts_of(load_model(folder)).measured["validation"]
    return found


def validated_map_at_r(line: dict[str, Any]) -> float:
    """Return MAP@R on the validation classes from the line of a run; tuning maximises it."""
    score: float = line["validation"]["map_at_r"]
    return score


def every_fourth(labels: np.ndarray) -> np.ndarray:
    """Return a mask, bool ``(N,)``, of every fourth image of each class: a quarter to measure on.

    Args:
        labels: int ``(N,)``.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[3::4]] = True
    return chosen
