"""Programs that go into a parity pack, as they are; each runs without this package."""
