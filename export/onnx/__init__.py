"""ONNX files: tracing a model to a graph, writing it in fp32, fp16 and int8, and inspecting a file."""
