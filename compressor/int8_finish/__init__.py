"""Fine-tuning for int8: a float network that computes as if quantised, its fine-tune, and export with both."""
