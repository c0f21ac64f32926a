"""ONNX files: looked through as data first, then run by onnxruntime on the CPU."""
