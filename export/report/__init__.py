"""Validation: measure models and searches, and report them as content, page and tables."""
