"""The verb ``check``: checks all data before hours of training."""
