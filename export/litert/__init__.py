"""Files for LiteRT (TensorFlow Lite): conversion, int8, metadata that MediaPipe reads, and the gate of recall."""
