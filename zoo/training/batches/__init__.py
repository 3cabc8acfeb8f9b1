"""What a training step is given: which images make a batch, and random views or features of them."""
