"""Teachers of any kind, as one: each kind in its file, how one is opened, proved and cached."""
