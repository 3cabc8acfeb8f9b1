"""Print the result of a verb, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.index.verbs import Hit
from export.report.validation import Report
from export.shipping import Exported
from zoo.data.checking.findings import Check
from zoo.errors import for_terminal


def show(verb: str, result: Any, queries: Sequence[Any] = (), all_nodes: bool = False) -> None:
    """Print the result of a verb.

    Args:
        verb: the verb.
        result: what its function returned.
        queries: the queries of index search.
        all_nodes: for inspect: name all nodes that compute in float.
    """
    if isinstance(result, Report):
        from export.report.tables import print_table

        print_table(result.content)
        print(f"Report: {result.folder / 'report.html'}")
    elif isinstance(result, Exported):
        if result.candidates is not None:
            show_candidates(result.candidates)
        print("Done:", *result.files.values())
    elif verb == "bench":
        from export.report.tables import print_bench

        print_bench(result)
    elif verb == "inspect":
        from export.report.tables import print_inspection

        print_inspection(result, all_nodes)
    elif isinstance(result, Check):
        print_check(result)
    elif verb == "index search":
        print_hits([str(query) for query in queries], result)
    else:
        print(f"Done: {result}")


def print_check(result: Check) -> None:
    """Print facts about the data, and a row with remedy for each finding."""
    from rich.box import SIMPLE
    from rich.table import Table

    from export.report.tables import plain_text, wide_console

    console = wide_console()
    for line in result.facts():
        console.print(plain_text(line), soft_wrap=True)
    if not result.findings:
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, justify in (("level", "left"), ("count", "right"), ("found, and what to do", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for found in result.findings:
        text = f"{found.title}: {found.examples()}\n{found.remedy}"
        table.add_row(found.level, f"{found.count:,}", plain_text(text), end_section=True)
    console.print(table)


def show_candidates(content: dict[str, Any]) -> None:
    """Print the int8 candidates, given the content of ``candidates.json``."""
    from export.report.tables import print_candidates

    print_candidates(content)


def print_hits(queries: list[str], found: list[list[Hit]]) -> None:
    """Print query, rank, id and score of each image found, tabs between them; tabs in names are written as ``\\t``."""
    for query, hits in zip(queries, found, strict=True):
        for rank, hit in enumerate(hits, start=1):
            asked, name = (for_terminal(text, on_one_line=True) for text in (query, hit.id))
            print(f"{asked}\t{rank}\t{name}\t{hit.score:.6f}")


def show_json(result: Any, queries: Sequence[Any] = ()) -> None:
    """Print the result of a verb as JSON: files as paths, documents with the content of their files.

    Args:
        result: what its function returned.
        queries: the queries of index search.
    """
    content: Any = result
    if isinstance(result, Report):
        content = {"folder": str(result.folder)} | result.content
    elif isinstance(result, Exported):
        content = {"files": {precision: str(file) for precision, file in result.files.items()}}
        content["candidates"] = result.candidates
    elif isinstance(result, Check):
        content = result.as_dict()
    elif isinstance(result, Path):
        content = {"path": str(result)}
    elif isinstance(result, list):
        of_each = zip(queries, result, strict=True)
        content = [{"query": str(query), "hits": [hit._asdict() for hit in hits]} for query, hits in of_each]
    print(json.dumps(content, indent=2))
