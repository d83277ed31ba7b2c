"""Training: recurrent networks in PyTorch, exported to ONNX and published with the contract the service will check."""
