"""Programs that are copied into a parity pack; each runs without this package."""
