"""Teachers of any kind, one kind per file; how they are opened, proved and cached."""
