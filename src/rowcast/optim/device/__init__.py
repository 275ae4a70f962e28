"""The vectors of a worker on a device of PyTorch, where the parameters are: kernels, and the way to the host and back.

:class:`DeviceHome` is a :class:`rowcast.delivery.placed.Home`. Its kernels are those of PyTorch
(:mod:`~rowcast.optim.device.plain`) or, on a GPU with Triton, fused ones (:mod:`~rowcast.optim.device.fused`).
"""

from rowcast.optim.device.home import DeviceHome, home_for
from rowcast.optim.device.vector import DeviceVector

__all__ = ["DeviceHome", "DeviceVector", "home_for"]
