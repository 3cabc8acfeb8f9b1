"""The main job's table holds what was made with the settings as they are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from benchmarks.main_job import run


def line(config: str = "quickstart") -> dict[str, Any]:
    settings = run.settings_of(config)
    return {
        "config": config,
        "seed": 0,
        "settings": {name: deepcopy(settings[name]) for name in ("teacher", "student")},
    }


def test_lines_of_other_settings_do_not_count() -> None:
    same, compiled, other, shorter = line(), line("grocery"), line(), line("omniglot")
    compiled["settings"]["student"]["compile"] = True  # the same result, sooner
    other["settings"]["teacher"]["images_per_class"] = 7
    del shorter["settings"]["student"]["min_crop"]
    assert run.counting([same, compiled, other, shorter]) == [same, compiled]
