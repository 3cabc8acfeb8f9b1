"""Models: make, save and load timm networks, record facts about them, and turn pixels into embeddings."""
