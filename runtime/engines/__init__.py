"""Engines: what TensorRT makes of a bundle's ONNX files. A cache, never the model: they can always be built again."""
