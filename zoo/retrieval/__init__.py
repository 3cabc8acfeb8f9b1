"""Retrieval: exact nearest neighbours, who is compared with whom, and measures by classes and by continuous labels."""
