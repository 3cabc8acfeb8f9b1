"""Data as they lie: objects of Python, tables in several formats, shards, and addresses of other machines."""
