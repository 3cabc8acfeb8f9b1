"""Training: which images make a batch and how they are varied, what learns from them, and the verb ``train``."""
