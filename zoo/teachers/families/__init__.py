"""Teachers of other libraries by name or folder, one library a file; each gives a tower, the image side alone."""
