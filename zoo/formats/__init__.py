"""File formats, read with types and limits and checked against digests; those for the device need no other package."""
