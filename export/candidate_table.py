"""What was tried on the way to int8, as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 150


def print_candidates(content: dict[str, Any], console: Console | None = None) -> None:
    """Print the candidates: measure and drop in percent and points, size in MB, median latency of one image in ms.

    Args:
        content: what ``candidates.json`` holds.
        console: where to print; standard output if None, widened where that is a file or pipe, so that nothing is cut.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(console.width, _WIDTH))
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("candidate", overflow="fold")
    for heading in (content["measure"], "drop", "overlap@10", "MB", "ms, pixels", "ms, tensor", "budget"):
        table.add_column(heading, justify="right", overflow="fold")
    for entry in content["candidates"]:
        table.add_row(*(Text(cell) for cell in _cells(entry, content)))
    console.print(table)


def _cells(entry: dict[str, Any], content: dict[str, Any]) -> list[str]:
    name = entry["name"] + (" (chosen)" if entry["name"] == content["chosen"] else "")
    if entry["error"] is not None:
        return [name, entry["error"]]
    low, high = entry["drop_interval"]
    times = entry["latency_ms"] or {}
    verdict = "inside" if entry["inside_budget"] else "outside"
    return [
        name,
        f"{100 * entry['score']:.2f}",
        f"{100 * entry['drop']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
        f"{100 * entry['neighbour_overlap']:.1f}",
        f"{entry['bytes'] / 1e6:.2f}",
        *(f"{times[takes]['median']:.2f}" if takes in times else "–" for takes in ("pixels", "tensor")),
        verdict if entry["precision"] == "int8" else "",
    ]
