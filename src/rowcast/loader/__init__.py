"""Batches of a stream for a training loop of PyTorch."""
