"""A chosen subnet as files that plain PyTorch and ONNX Runtime load."""
