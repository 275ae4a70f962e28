"""Parameters that change while they are served: one set for each request, from the first row to the last."""

from __future__ import annotations

import threading

import torch

from rowcast.errors import ConfigError

__all__ = ["Versions"]


class Versions:
    """Takes over parameters for a module that is served, between two requests.

    Args:
        net: the module that is served. Nobody else writes to it.

    Attributes:
        current: counts the sets that were taken over; 0: those that the module began with.
    """

    def __init__(self, net: torch.nn.Module) -> None:
        self.current = 0
        self._held = _tensors(net)
        self._next: dict[str, torch.Tensor] = {}
        self._new = False
        self._lock = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Newer parameters than those of the module are there."""
        return self._new

    def offer(self, net: torch.nn.Module) -> None:
        """The parameters and buffers of ``net``, as they are now, are to be served; copied before this returns.

        Raises:
            ConfigError: ``net`` has others than the module that is served, by name, type or shape.
        """
        tensors = _tensors(net)
        for name in {**self._held, **tensors}:
            ours, theirs = self._held.get(name), tensors.get(name)
            if ours is None or theirs is None or (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                raise ConfigError(
                    f"update: parameter {name!r}: expected {_shown(ours)} as in the model that is served, got "
                    f"{_shown(theirs)}; give the module that was copied for serving"
                )
        with self._lock, torch.no_grad():
            for name, tensor in tensors.items():
                if name in self._next:
                    self._next[name].copy_(tensor)
                else:
                    self._next[name] = tensor.detach().to(self._held[name].device, copy=True)
            self._new = True

    def take_over(self) -> None:
        """Serve what was offered last from now on, if anything is new. Called between two requests."""
        if not self._new:
            return
        with self._lock, torch.no_grad():
            for name, tensor in self._next.items():
                self._held[name].copy_(tensor)
            self._new = False
            self.current += 1


def _tensors(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _shown(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
