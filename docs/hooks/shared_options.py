"""Shows the reference what running the code brings together: help and defaults that verbs take from "
"zoo.training.options."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

from zoo.training import options


class SharedOptions(griffe.Extension):
    """Completes the docstrings of verbs that are ``documented``, and gives their defaults as values."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Treat one function, when griffe has read it."""
        if func.docstring is None or not any(str(each.value).endswith("documented") for each in func.decorators):
            return

        def verb() -> None: ...

        verb.__doc__ = func.docstring.value
        kind = inspect.Parameter.KEYWORD_ONLY
        verb.__signature__ = inspect.Signature([inspect.Parameter(each.name, kind) for each in func.parameters])  # type: ignore[attr-defined]
        func.docstring.value = options.documented(verb).__doc__ or ""
        for each in func.parameters:
            named = re.fullmatch(r"(\w+Options)\.(\w+)", str(each.default))
            if named:
                each.default = repr(getattr(getattr(options, named[1]), named[2]))
