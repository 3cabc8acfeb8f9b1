"""Embeddings of whole data sets, written to files: the verb ``embed``."""
