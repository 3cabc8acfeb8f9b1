"""A look at all data before hours of training: the verb ``check``."""
