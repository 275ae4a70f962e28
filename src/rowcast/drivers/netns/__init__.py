"""Real sockets on emulated links: a network of namespaces on one Linux machine.

``network``: the namespaces, each with a host; ``rights``: whether they can be made here, and user namespaces;
``cleaning``: removes what a killed emulation left; ``kernel_shaper``: links shaped by the kernel.
"""
