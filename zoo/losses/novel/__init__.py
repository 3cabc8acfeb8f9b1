"""Of the loss of novel classes: the generator of embeddings, the distance that it learns by, and its report."""
