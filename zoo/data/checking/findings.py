"""What a check found: :class:`Check`."""

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
    """One kind of thing that was found.

    Attributes:
        kind: a name for programs, such as "copies_across"; see docs/how-to/check.md.
        level: "error" for what must be fixed, "note" for what should be looked at.
        title: what it is, in a few words.
        count: how many there are.
        remedy: what to do about it, in a sentence.
        items: each of them, ready for JSON.
    """

    kind: str
    level: str
    title: str
    count: int
    remedy: str
    items: Sequence[dict[str, Any]]

    def examples(self) -> str:
        """Return the first few in a line."""
        some = [_shown(item) for item in self.items[:_SHOWN]]
        return "; ".join(some) + (" ..." if self.count > len(some) else "")


@dataclass(frozen=True, repr=False)
class Check:
    """What a look at all images found.

    Attributes:
        name: of the data.
        split: the rule that divides them.
        images: how many there are.
        classes: how many there are; None without labels.
        parts: images of each part: "train", "validation", "test", and "unused" where there are.
        kinds: images of each format and mode, such as "JPEG RGB".
        sides: least, median and greatest length of the shorter side, in pixels; None where no image can be read.
        findings: errors first.
        passed: there is no error; with ``strict``, no note either.
        seconds: how long it took.
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
        """What must be fixed."""
        return tuple(found for found in self.findings if found.level == ERROR)

    @property
    def verdict(self) -> str:
        """Whether the check passed, in a sentence."""
        errors, notes = len(self.errors), len(self.findings) - len(self.errors)
        counted = [f"{count} {level}{'' if count == 1 else 's'}" for count, level in ((errors, ERROR), (notes, NOTE))]
        found = " and ".join(text for text in counted if text[0] != "0") or "nothing"
        return f"{'Passed' if self.passed else 'Failed'}: {found} found."

    def facts(self) -> list[str]:
        """Return what the data are, in a few lines."""
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
    """Return an item in a few words: what it names, joined; a reason in brackets."""
    named = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in _names_in(item)]
    text = " = ".join(named)
    return printable(f"{text} ({item['reason']})" if "reason" in item else text)


def _names_in(item: dict[str, Any]) -> list[Any]:
    return [value for name, value in item.items() if name in ("id", "ids", "like", "class", "classes", "looks_like")]
