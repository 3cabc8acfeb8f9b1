"""The result of a check: :class:`Check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import printable
from zoo.notebook import html_table

ERROR, NOTE = "error", "note"
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """A finding of one kind.

    Attributes:
        kind: a name for programs, such as "copies_across"; see docs/how-to/check.md.
        level: "error" for what must be fixed, "note" for what should be looked at.
        title: short description.
        count: number of items.
        remedy: what to do about it, in a sentence.
        items: the items, ready for JSON.
    """

    kind: str
    level: str
    title: str
    count: int
    remedy: str
    items: Sequence[dict[str, Any]]

    def examples(self) -> str:
        """Return the first few items in one line."""
        some = [_shown(item) for item in self.items[:_SHOWN]]
        return "; ".join(some) + (" ..." if self.count > len(some) else "")


@dataclass(frozen=True, repr=False)
class Check:
    """The result of checking all images.

    Attributes:
        name: name of the data.
        split: the rule that splits them.
        images: number of images.
        classes: number of classes; None without labels.
        parts: number of images in each part that has any: "train", "validation", "test" and "unused".
        kinds: number of images of each format and mode, such as "JPEG RGB".
        sides: smallest, median and largest length of the shorter side, in pixels; None if no image can be read.
        findings: the findings, errors first.
        passed: whether there is no error, and with ``strict`` no note either.
        seconds: how long the check took.
    """

    name: str
    split: str
    images: int
    classes: int | None
    parts: dict[str, int]
    kinds: dict[str, int]
    sides: tuple[int, int, int] | None
    findings: tuple[Finding, ...]
    passed: bool
    seconds: float

    def __repr__(self) -> str:
        return f"Check({printable(self.name)!r}, {self.verdict})"

    def _repr_html_(self) -> str:
        rows = [(each.title, each.level, f"{each.count:,}", each.examples(), each.remedy) for each in self.findings]
        return html_table(rows, ("found", "level", "count", "such as", "what to do"), [*self.facts(), self.verdict])

    def __getitem__(self, kind: str) -> Finding:
        """Return the finding of a kind.

        Raises:
            KeyError: nothing of this kind was found.
        """
        for found in self.findings:
            if found.kind == kind:
                return found
        raise KeyError(kind)

    def __contains__(self, kind: str) -> bool:
        return any(found.kind == kind for found in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return the findings that must be fixed."""
        return tuple(found for found in self.findings if found.level == ERROR)

    @property
    def verdict(self) -> str:
        """Return whether the check passed, in a sentence."""
        errors, notes = len(self.errors), len(self.findings) - len(self.errors)
        counted = [f"{count} {level}{'' if count == 1 else 's'}" for count, level in ((errors, ERROR), (notes, NOTE))]
        found = " and ".join(text for text in counted if text[0] != "0") or "nothing"
        return f"{'Passed' if self.passed else 'Failed'}: {found} found."

    def facts(self) -> list[str]:
        """Return a description of the data, in a few lines."""
        classes = "" if self.classes is None else f" of {self.classes:,} classes"
        parts = ", ".join(f"{count:,} {part}" for part, count in self.parts.items())
        lines = [f"{self.name}: {self.images:,} images{classes}; split {self.split}: {parts}"]
        if self.sides is not None:
            least, median, greatest = self.sides
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
            lines.append(f"{kinds}; shorter side {least} to {greatest} pixels, median {median}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)


def _shown(item: dict[str, Any]) -> str:
    """Return an item in short: its names, joined, and a reason in brackets."""
    named = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in _names_in(item)]
    text = " = ".join(named)
    return printable(f"{text} ({item['reason']})" if "reason" in item else text)


def _names_in(item: dict[str, Any]) -> list[Any]:
    return [value for name, value in item.items() if name in ("id", "ids", "like", "class", "classes", "looks_like")]
