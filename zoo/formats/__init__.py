"""Formats of files, read with types and limits, and checked against digests; the device needs no other package."""
