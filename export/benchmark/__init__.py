"""Time and memory of ONNX files: the verb ``bench``, interleaved timing, and peak memory in a separate process."""
