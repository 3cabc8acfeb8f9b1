"""ONNX files: a model traced to a graph, written in fp32, fp16 and int8, and what a graph says of itself."""
