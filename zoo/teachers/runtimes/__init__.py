"""Models that run elsewhere than in torch and onnxruntime: in a program, a function, OpenVINO or LiteRT."""
