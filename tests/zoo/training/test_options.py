"""The options of the verbs, by subject: one default and one help text each, passed to the right place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from compressor.distillation import distill
from compressor.int8_finish.quantization_aware import finish_quantized
from compressor.int8_finish.shipping import ship
from compressor.pipeline import run
from export.report.validation import validate
from export.shipping import export_model
from zoo.training.options import SUBJECTS, BatchOptions, Training, documented, gathered
from zoo.training.train import train

VERBS = [train, distill, finish_quantized, export_model, ship, validate, run]
LEADING = {
    train: ["data", "out"],
    distill: ["teacher", "data", "out"],
    validate: ["models", "teacher", "data", "out"],
    export_model: ["model", "out"],
    ship: ["model", "out"],
    run: ["data", "out"],
    finish_quantized: ["student", "teacher", "data", "out"],
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_help_names_each_parameter_once_in_order(verb: Callable[..., Any]) -> None:
    section = inspect.cleandoc(verb.__doc__ or "").partition("\nArgs:\n")[2].partition("\n\nReturns:")[0]
    assert re.findall(r"^    (\w+): ", section, flags=re.MULTILINE) == list(inspect.signature(verb).parameters)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_only_leading_arguments_may_be_given_by_place(verb: Callable[..., Any]) -> None:
    by_place = [
        parameter.name
        for parameter in inspect.signature(verb).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert by_place == LEADING[verb]


def test_every_option_of_training_belongs_to_one_subject() -> None:
    names = [each.name for subject in SUBJECTS.values() for each in fields(subject)]
    assert len(names) == len(set(names))
    own = {"data", "out", "teacher", "metric", "teacher_precision", "teacher_views", "teacher_cache"}
    for verb in (train, distill):
        assert set(inspect.signature(verb).parameters) - own <= set(names)


def test_options_are_gathered_by_subject() -> None:
    asked = Training.of({"lr": 0.5, "arch": "vit", "views": 3, "split": "given", "devices": 2, "other": 1})
    assert (asked.optimisation.lr, asked.network.arch, asked.batches.views) == (0.5, "vit", 3)
    assert (asked.data.split, asked.machine.devices, asked.batches.batch_size) == ("given", 2, BatchOptions.batch_size)
    assert asked.data.division == {
        "split": "given",
        "validation": 0.2,
        "continuous_labels": None,
        "label_metric": "euclidean",
        "columns": None,
    }
    assert gathered(BatchOptions, {"augment": "none"}) == BatchOptions(augment="none")


def test_a_verbs_own_words_go_before_the_subjects() -> None:
    @documented
    def verb(augment: str, lr: float, mine: int) -> None:
        """Do it.

        Args:
            mine: my own,
                in two lines.
            lr: another rate.

        Returns:
            Nothing.
        """

    (views,) = re.findall(r"augment: (.*)", BatchOptions.__doc__ or "")
    assert verb.__doc__ == (
        f"Do it.\n\nArgs:\n    augment: {views}\n    lr: another rate.\n    mine: my own,\n        in two lines.\n\n"
        "Returns:\n    Nothing."
    )
