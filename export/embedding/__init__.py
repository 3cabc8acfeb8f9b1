"""Embeddings of whole folders as files: the verb ``embed``."""
