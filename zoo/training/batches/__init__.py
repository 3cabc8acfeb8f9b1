"""Batches for training: which images they contain, and random views or features of these."""
