"""Training: batches and augmentation, the learners, and the verb ``train``."""
