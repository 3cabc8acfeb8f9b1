"""Galleries that can be searched: the verbs, the folder that holds one, and indexes by kind, in faiss or numpy."""
