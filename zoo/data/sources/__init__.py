"""Readers of Python objects, tables in several formats, shards, and addresses on other machines."""
