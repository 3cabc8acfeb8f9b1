"""Models that run outside torch and onnxruntime: in a program, a function, OpenVINO or LiteRT."""
