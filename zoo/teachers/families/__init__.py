"""Teachers of other libraries by name or folder, one library per file. Each is a tower: the image side of a model."""
