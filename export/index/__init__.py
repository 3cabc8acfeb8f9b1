"""Searchable galleries: the verbs, the folder of a gallery, and the kinds of index, in faiss or numpy."""
