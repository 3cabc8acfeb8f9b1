"""The command line: words of the shell to options, a verb carried out, and what is printed of it."""

from compressor.cli.command import main

__all__ = ["main"]
