"""What files cost where they run: the verb ``bench``, timing in turn, and the memory of a process of its own."""
