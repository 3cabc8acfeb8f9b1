"""Formats of files: read with types and limits, and checked against digests. Needs the standard library only."""
