"""Quantising: the schemes, what candidates are judged on, and which of them ships."""
