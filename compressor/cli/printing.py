"""What the shell shows: overview, hits, and messages of our own and of libraries."""

from __future__ import annotations

import json
import logging

from compressor.cli.verbs import VERBS, summary
from export.index.verbs import Hit


def print_hits(queries: list[str], found: list[list[Hit]], as_json: bool) -> None:
    """Print query, rank, id and score of each image found, tabs between them."""
    of_each = list(zip(queries, found, strict=True))
    if as_json:
        print(json.dumps([{"query": query, "hits": [hit._asdict() for hit in hits]} for query, hits in of_each]))
        return
    for query, hits in of_each:
        for rank, hit in enumerate(hits, start=1):
            line = f"{query}\t{rank}\t{hit.id}\t{hit.score:.6f}"
            print(line.encode("utf-8", "replace").decode())  # names of files need not be valid Unicode


def overview() -> str:
    """Return what ``compressor --help`` says."""
    lines = [f"  {name:13} {summary(verb)}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"usage: compressor {{{','.join(VERBS)}}} [options]",
            "",
            "Make an image-retrieval model small enough to ship, and prove that it still retrieves.",
            "",
            *lines,
            "",
            "compressor COMMAND --help lists the options; all are YAML keys too (--config FILE, --print_config).",
            "Exit codes: 0 done, 1 an error you can mend, 2 bad usage, 3 a gate failed: retention, gain, int8 recall.",
        ]
    )


def quieten() -> None:
    """Show our own messages plainly, and of the libraries warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("zoo", "compressor", "export"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
