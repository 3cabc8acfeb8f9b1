"""HTML tables that objects show in a notebook; needs the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from zoo.errors import printable


def html_table(rows: Iterable[Sequence[object]], headings: Sequence[str] = (), above: Iterable[object] = ()) -> str:
    """Return an HTML table with all texts escaped.

    Args:
        rows: rows of cells; the first cell of a row is its name.
        headings: column headings; none for no heading row.
        above: paragraphs before the table.
    """
    paragraphs = "".join(f"<p>{_text(line)}</p>" for line in above)
    head = f"<thead><tr>{_cells('th', headings)}</tr></thead>" if headings else ""
    body = "".join(f"<tr><th>{_text(name)}</th>{_cells('td', cells)}</tr>" for name, *cells in rows)
    return f"{paragraphs}<table>{head}<tbody>{body}</tbody></table>"


def _cells(tag: str, texts: Iterable[object]) -> str:
    return "".join(f"<{tag}>{_text(text)}</{tag}>" for text in texts)


def _text(value: object) -> str:
    # File names need not be valid Unicode, and notebooks are saved as UTF-8.
    return escape(printable(value))
