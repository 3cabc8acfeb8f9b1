"""The command line: parse a command's words, run the verb, and print its result."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb with :func:`compressor.cli.command.main`, after setting up signals and streams."""
    from compressor.cli.process import prepared

    with prepared() as ended:
        from compressor.cli.command import main as carry_out

        ended.code = carry_out(arguments)
    return ended.code


__all__ = ["main"]
