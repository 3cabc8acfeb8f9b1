"""Retrieval: exact nearest neighbours, queries and gallery, and measures by classes and by continuous labels."""
