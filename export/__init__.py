"""The exporter: a checkpoint of the reference becomes a bundle of verified ONNX components."""
