"""Networks of PyTorch."""
