"""Models: timm networks made, saved and loaded, what is known of each, and the way from pixels to embeddings."""
