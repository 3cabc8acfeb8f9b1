"""Validation: models and searches measured, and the report of them, as content, page and tables."""
