"""Parts of the novel-classes loss: the generator of embeddings, the energy distance that trains it, and its report."""
