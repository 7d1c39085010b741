"""From a trained model to a bundle: folding, precision, the ONNX graph, and what proves that they changed nothing."""
