"""Files for LiteRT (TensorFlow Lite): conversion, int8, metadata for MediaPipe, and the check of recall."""
