"""The parity pack: images and their expected vectors, to check that another runtime or application agrees."""
