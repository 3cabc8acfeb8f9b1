"""Galleries that can be searched: the verbs, the folder that holds one, and faiss indexes by kind."""
