"""Real sockets on emulated links: a network of namespaces on one Linux machine, and the medium between its hosts.

``network``: the namespaces, each with a host; ``rights``: whether they can be made here, and user namespaces;
``cleaning``: removes what a killed emulation left. ``medium``: when each packet comes out, without a clock;
``forward``: the process that carries packets so; ``kernel_shaper``: links shaped by the kernel in its place.
"""
