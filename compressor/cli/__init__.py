"""The command line: words of the shell to options, a verb carried out, and what is printed of it."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb, as :func:`compressor.cli.command.main` does, with signals and streams seen to before all else."""
    from compressor.cli.process import prepared

    with prepared() as ended:
        from compressor.cli.command import main as carry_out

        ended.code = carry_out(arguments)
    return ended.code


__all__ = ["main"]
