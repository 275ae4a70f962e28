"""The device on which a model is computed."""

from __future__ import annotations

import torch

from rowcast.errors import ConfigError

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """The device of a name as PyTorch has it, like 'cpu' or 'cuda:1'.

    Raises:
        ConfigError: no such name, or this machine or this build of PyTorch has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device: {name!r} cannot be used here ({str(error).splitlines()[0]}); take 'cpu', or a machine and a "
            "build of PyTorch with that device"
        ) from error
    return device
