"""The vectors of a worker on a device of PyTorch, where its parameters are: kernels, and the way to the host and back.

:class:`DeviceHome` is a :class:`rowcast.delivery.placed.Home`. Everything here runs on any device of PyTorch, so that
the tests run it on the processor; it was not run on a GPU yet.
"""

from rowcast.optim.device.home import DeviceHome, home_for

__all__ = ["DeviceHome", "home_for"]
