"""One folder that other libraries open: timm, transformers, sentence-transformers, transformers.js, fastembed."""
