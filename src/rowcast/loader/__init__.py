"""Batches of a stream for a training loop of PyTorch."""

from rowcast.loader.loader import StreamLoader

__all__ = ["StreamLoader"]
