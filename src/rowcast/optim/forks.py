"""A process that was forked from one that computes: what PyTorch cannot do there."""

from __future__ import annotations

import os
import warnings

import torch

__all__ = ["warn_of_fork"]

_forked = False


def _note() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note)


def warn_of_fork(stacklevel: int) -> None:
    """Say that PyTorch may hang in this process, if it was forked and computes with several threads.

    The kernels of this library survive a fork. The threads of PyTorch's own operations do not: an operation on a large
    tensor waits for ever in the child for those of the parent.
    """
    if _forked and torch.get_num_threads() > 1:
        warnings.warn(
            "this process was forked: PyTorch's threads do not survive a fork, and an operation on a large tensor may "
            "hang here; call torch.set_num_threads(1) first, or start processes with "
            "multiprocessing.get_context('spawn')",
            UserWarning,
            stacklevel=stacklevel,
        )
